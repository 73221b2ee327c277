"""Settings fold in one order, are refused by name, and are all described."""

from pathlib import Path

import pytest

from fluxserve import config
from fluxserve.config import PREFIX, Settings, SettingsError, every_setting

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"


def test_flags_win_over_the_environment_which_wins_over_the_file_which_wins_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "fluxserve.toml"
    file.write_text('[server]\nhost = "from-file"\nport = 1\ndata_dir = "from-file"\n')
    environment = {"FLUXSERVE_CONFIG": str(file), "FLUXSERVE_PORT": "2", "FLUXSERVE_DATA_DIR": "from-environment"}

    settings = config.load(environment, data_dir=Path("from-flag"), host=None)

    assert settings.server.host == "from-file"
    assert settings.server.port == 2
    assert settings.server.data_dir == Path("from-flag")
    assert settings.queue.lease_seconds == Settings().queue.lease_seconds


def test_an_empty_variable_is_unset() -> None:
    assert config.load({"FLUXSERVE_PORT": ""}).server.port == 8000


def test_a_wrong_value_is_refused_with_its_name_its_value_and_where_it_came_from(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"server.port = '99999' \(from FLUXSERVE_PORT\): .*65535"):
        config.load({"FLUXSERVE_PORT": "99999"})
    file = tmp_path / "fluxserve.toml"
    file.write_text("[queue]\nlease_seconds = 0\n")
    with pytest.raises(SettingsError, match=r"queue.lease_seconds = 0 \(from .*fluxserve.toml\)"):
        config.load({"FLUXSERVE_CONFIG": str(file)})


@pytest.mark.parametrize("gaps", ["5,-1", "nan", "5,inf", "soon"])
def test_gaps_that_are_no_seconds_are_refused(gaps: str) -> None:
    with pytest.raises(SettingsError, match=f"webhook_gaps = '{gaps}'"):
        config.load({"FLUXSERVE_WEBHOOK_GAPS": gaps})


@pytest.mark.parametrize("text", ["[server]\nprot = 1\n", "[servre]\nport = 1\n", "port = 1\n", "[server\n"])
def test_a_file_with_anything_unknown_in_it_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "fluxserve.toml"
    file.write_text(text)

    with pytest.raises(SettingsError):
        config.load({"FLUXSERVE_CONFIG": str(file)})


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"/nothing.toml can't be read"):
        config.load({"FLUXSERVE_CONFIG": "/nothing.toml"})


def test_a_key_is_never_shown() -> None:
    settings = config.load({"FLUXSERVE_API_KEY": "canary"})

    assert "canary" not in repr(settings)
    assert settings.account.api_key is not None
    assert settings.account.api_key.get_secret_value() == "canary"


def test_field_names_are_unique_so_that_each_has_one_variable() -> None:
    fields = [field for _, field in every_setting()]

    assert len(set(fields)) == len(fields)


@pytest.mark.parametrize(("group", "field"), every_setting())
def test_every_setting_is_described_on_its_page(group: str, field: str) -> None:
    info = type(getattr(Settings(), group)).model_fields[field]
    default = "unset" if info.default is None else f"`{info.default}`"

    assert f"| `{field}` | `{PREFIX}{field.upper()}` | {default} | {info.description} |" in PAGE.read_text()
