"""What a person has already is linked, not copied; what is removed frees its room, but a link's file stays."""

from pathlib import Path

import pytest

from fluxserve.domain.weights import PACKAGES
from fluxserve.weights import PullError, find, is_here
from fluxserve.weights.placing import place
from fluxserve.weights.remove import remove
from tests.weights.packages import ENCODERS, FLUX, TRANSFORMER, lay, lay_in_cache

DEV = PACKAGES["flux1-dev"]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere"


def test_a_diffusers_folder_is_linked(folder: Path, elsewhere: Path) -> None:
    lay(elsewhere, FLUX)

    assert place(DEV, elsewhere, folder) == find("flux1-dev", folder) == folder / "flux1-dev"
    assert (folder / "flux1-dev").readlink() == elsewhere


@pytest.mark.parametrize("ending", [".safetensors", ".gguf"])
def test_so_is_a_single_file(folder: Path, elsewhere: Path, ending: str) -> None:
    lay(elsewhere, {f"flux1-dev-Q8_0{ending}": b"weights"})

    link = place(DEV, elsewhere / f"flux1-dev-Q8_0{ending}", folder)

    assert link == find("flux1-dev", folder) == folder / f"flux1-dev{ending}"
    assert link.is_symlink()


def test_another_link_takes_the_place_of_the_first(folder: Path, elsewhere: Path) -> None:
    for name in ("one", "two"):
        lay(elsewhere / name, TRANSFORMER)
        place(DEV, elsewhere / name, folder)

    assert find("flux1-dev", folder).resolve() == elsewhere / "two"


def test_what_was_pulled_is_not_put_aside_for_a_link(folder: Path, elsewhere: Path) -> None:
    for where in (folder / "flux1-dev", elsewhere):
        lay(where, TRANSFORMER)

    with pytest.raises(PullError, match="is there already; `fluxserve models remove flux1-dev` deletes it"):
        place(DEV, elsewhere, folder)


@pytest.mark.parametrize(
    ("name", "path", "words"),
    [
        ("flux1-dev", "model.ckpt", "can't be flux1-dev; allowed is a folder or a .safetensors file or a .gguf file"),
        ("flux1-dev", "nowhere", "can't be flux1-dev"),
        ("flux1-dev", ".", "is no flux1-dev: it lacks scheduler/scheduler_config.json"),
        ("anime", ".", "can't be anime; allowed is a .safetensors file"),
        ("flux1-encoders", "t5.gguf", "can't be flux1-encoders; allowed is a folder"),
    ],
)
def test_what_can_t_be_it_is_refused(folder: Path, elsewhere: Path, name: str, path: str, words: str) -> None:
    lay(elsewhere, {"model.ckpt": b"pickle", "t5.gguf": b"t5", "text.txt": b""})

    with pytest.raises(PullError) as told:
        place(PACKAGES[name], elsewhere / path, folder)
    assert words in str(told.value)


def test_removing_frees_the_room_that_it_took(folder: Path) -> None:
    lay(folder / "flux1-dev", TRANSFORMER)
    lay(folder / "flux1-dev.partial-0123456789ab", {"transformer/config.json.part": b"begun"})
    lay(folder / "flux1-encoders", ENCODERS)

    removed = remove(DEV, folder)

    assert removed.freed == sum(map(len, TRANSFORMER.values())) + len(b"begun")
    assert [path.name for path in folder.iterdir()] == ["flux1-encoders"]


def test_of_a_link_the_file_stays(folder: Path, elsewhere: Path) -> None:
    lay(elsewhere, TRANSFORMER)
    place(DEV, elsewhere, folder)

    removed = remove(DEV, folder)

    assert (removed.freed, removed.places) == (0, (folder / "flux1-dev",))
    assert not is_here("flux1-dev", folder)
    assert (elsewhere / "transformer/config.json").is_file()


def test_in_the_hubs_cache_the_other_packages_of_a_repository_stay(folder: Path, cache: Path) -> None:
    lay_in_cache(cache, "black-forest-labs/FLUX.1-schnell", FLUX)

    removed = remove(PACKAGES["flux1-schnell"], folder)

    assert removed.freed == sum(map(len, TRANSFORMER.values()))
    assert not is_here("flux1-schnell", folder)
    assert is_here("flux1-encoders", folder)
    blobs = cache / "models--black-forest-labs--FLUX.1-schnell" / "blobs"
    assert TRANSFORMER["transformer/diffusion_pytorch_model-00002-of-00002.safetensors"] not in [
        blob.read_bytes() for blob in blobs.iterdir()
    ]


def test_what_is_not_there_frees_nothing(folder: Path) -> None:
    assert remove(DEV, folder).places == ()
