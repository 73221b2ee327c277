"""Settings fold in one order, are refused by name, and are all described."""

from pathlib import Path

import pytest

from fluxserve import config
from fluxserve.config import (
    PREFIX,
    Group,
    RelayedModelSettings,
    Settings,
    SettingsError,
    UpstreamSettings,
    every_setting,
)

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


def test_a_request_may_come_by_our_own_names_unless_the_settings_say_which() -> None:
    ours = {"localhost", "127.0.0.1", "[::1]"}
    public = {"FLUXSERVE_PUBLIC_URL": "https://Pictures.example.com:8443/flux"}

    assert config.load({}).server.host_names == ours
    assert config.load({"FLUXSERVE_HOST": "fe80::7", **public}).server.host_names == {
        *ours, "[fe80::7]", "pictures.example.com",
    }  # fmt: skip
    assert config.load({"FLUXSERVE_HOSTS": "Flux, [FE80::7]", **public}).server.host_names == {"flux", "[fe80::7]"}


def test_any_address_is_a_name_of_ours_where_we_listen_everywhere_and_nothing_else_was_said() -> None:
    everywhere = [config.load({"FLUXSERVE_HOST": host}).server.takes_any_address for host in ("0.0.0.0", "::")]

    assert everywhere == [True, True]
    assert not config.load({"FLUXSERVE_HOST": "192.168.1.7"}).server.takes_any_address
    assert not config.load({"FLUXSERVE_HOST": "0.0.0.0", "FLUXSERVE_HOSTS": "flux"}).server.takes_any_address


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("hosts", "http://flux"),
        ("hosts", "flux:8000"),
        ("hosts", "flux,::1"),
        ("hosts", "*.example.com"),
        ("origins", "*"),
        ("origins", "null"),
        ("origins", "shop.example.com"),
        ("origins", "https://shop.example.com/"),
        ("origins", "https://Shop.example.com"),
        ("origins", "https://*.example.com"),
        ("origins", "https://shop.example.com,ftp://shop.example.com"),
        ("public_url", "pictures.example.com"),
        ("public_url", "https:///files"),
        ("public_url", "http://["),
    ],
)
def test_what_is_no_name_no_origin_or_no_address_is_refused(setting: str, value: str) -> None:
    with pytest.raises(SettingsError, match=rf"server.{setting} = .* \(from FLUXSERVE_{setting.upper()}\)"):
        config.load({f"FLUXSERVE_{setting.upper()}": value})


def test_field_names_are_unique_so_that_each_has_one_variable() -> None:
    fields = [field for _, field in every_setting()]

    assert len(set(fields)) == len(fields)


@pytest.mark.parametrize(("group", "field"), every_setting())
def test_every_setting_is_described_on_its_page(group: str, field: str) -> None:
    info = type(getattr(Settings(), group)).model_fields[field]
    default = "unset" if info.default is None else f"`{info.default}`"

    assert f"| `{field}` | `{PREFIX}{field.upper()}` | {default} | {info.description} |" in PAGE.read_text()


@pytest.mark.parametrize("kind", [UpstreamSettings, RelayedModelSettings])
def test_what_an_upstream_and_a_relayed_model_may_say_is_described_on_that_page_too(kind: type[Group]) -> None:
    for name, info in kind.model_fields.items():
        default = "" if info.is_required() else "unset " if info.default is None else f"`{info.default}` "

        assert f"| `{name}` | {default}| {info.description} |" in PAGE.read_text()


UPSTREAM = '{"ours": {"url": "http://10.0.0.7:8080/v1/", "key": "canary"}}'


def test_upstreams_and_models_are_tables_in_the_file_and_json_in_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "fluxserve.toml"
    file.write_text(
        '[relay.upstreams.ours]\nurl = "http://10.0.0.7:8080/v1"\nkey = "canary"\n'
        '[relay.relayed_models."gpt-4.1"]\nupstreams = ["ours"]\ninput_usd = 1.5\n'
    )
    model = '{"gpt-4.1": {"upstreams": ["ours"], "input_usd": 1.5}}'

    from_file = config.load({"FLUXSERVE_CONFIG": str(file)}).relay
    assert from_file == config.load({"FLUXSERVE_UPSTREAMS": UPSTREAM, "FLUXSERVE_RELAYED_MODELS": model}).relay
    assert from_file.upstreams["ours"].url == "http://10.0.0.7:8080/v1"
    assert from_file.relayed_models["gpt-4.1"].input_usd == 1.5
    assert "canary" not in repr(from_file)


@pytest.mark.parametrize(
    ("upstreams", "what"),
    [
        ("{", "it is not JSON"),
        ('{"ours": {"key": "canary"}}', "url.*Field required"),
        ('{"ours": {"url": "ftp://canary", "key": "canary"}}', "allowed is an http or https address"),
        ('{"ours": {"url": "http://me:canary@10.0.0.7/v1"}}', "without a user name or password"),
        ('{"ours": {"url": "http://10.0.0.7/v1", "secret": "canary"}}', "ours.secret"),
        ('{"ours": {"url": "http://10.0.0.7/v1", "key": "canary\\n"}}', "printable ASCII"),
        ('{"ours": {"url": "http://10.0.0.7/v1", "key": ["canary"]}}', "ours.key"),
        ('{"ours": "canary"}', "relay.upstreams.ours"),
    ],
)
def test_a_wrong_upstream_is_refused_without_a_word_of_its_key(upstreams: str, what: str) -> None:
    with pytest.raises(
        SettingsError, match=rf"relay.upstreams.* \(from FLUXSERVE_UPSTREAMS\): .*{what}|{what}"
    ) as raised:
        config.load({"FLUXSERVE_UPSTREAMS": upstreams})
    assert "canary" not in str(raised.value)


def test_a_model_whose_upstream_there_is_not_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"relayed_models.gpt: there is no upstream thiers; allowed is ours"):
        config.load({"FLUXSERVE_UPSTREAMS": UPSTREAM, "FLUXSERVE_RELAYED_MODELS": '{"gpt": {"upstreams": ["thiers"]}}'})
    with pytest.raises(SettingsError, match=r"relayed_models.gpt.input_usd = -1 \(from FLUXSERVE_RELAYED_MODELS\)"):
        config.load(
            {
                "FLUXSERVE_UPSTREAMS": UPSTREAM,
                "FLUXSERVE_RELAYED_MODELS": '{"gpt": {"upstreams": ["ours"], "input_usd": -1}}',
            }
        )
