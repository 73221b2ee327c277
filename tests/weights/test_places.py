"""Weights are found where they lie whole, and nowhere else is looked."""

import socket
from pathlib import Path
from typing import NoReturn

import pytest

from fluxserve.domain.weights import PACKAGES
from fluxserve.weights import NotHereError, find, is_here
from tests.weights.packages import CLASSIFIER, ENCODERS, FIRST_SHARD, FLUX, TRANSFORMER, lay, lay_in_cache

SCHNELL, DEV = "black-forest-labs/FLUX.1-schnell", "black-forest-labs/FLUX.1-dev"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("to find something asks no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_folder_of_that_name_is_found(folder: Path) -> None:
    lay(folder / "flux1-dev", TRANSFORMER)

    assert find("flux1-dev", folder) == folder / "flux1-dev"


def test_a_folder_may_be_put_together_of_links(folder: Path, tmp_path: Path) -> None:
    theirs = lay(tmp_path / "elsewhere", TRANSFORMER)
    (folder / "flux1-dev").mkdir(parents=True)
    for name in ("transformer", "scheduler"):
        (folder / "flux1-dev" / name).symlink_to(theirs / name)

    assert find("flux1-dev", folder) == folder / "flux1-dev"


@pytest.mark.parametrize("ending", [".safetensors", ".gguf"])
def test_so_is_a_single_file_with_a_transformer_in_it(folder: Path, ending: str) -> None:
    lay(folder, {f"flux1-dev{ending}": b"weights", f"flux1-encoders{ending}": b"no transformer"})

    assert find("flux1-dev", folder) == folder / f"flux1-dev{ending}"
    assert not is_here("flux1-encoders", folder)


def test_what_lies_in_the_hubs_cache_is_found_there(folder: Path, cache: Path) -> None:
    snapshot = lay_in_cache(cache, SCHNELL, FLUX)

    assert find("flux1-schnell", folder) == find("flux1-encoders", None) == snapshot
    assert not is_here("flux1-dev", folder)


def test_who_has_dev_in_the_hubs_cache_needs_no_encoders_of_schnells(folder: Path, cache: Path) -> None:
    snapshot = lay_in_cache(cache, DEV, FLUX)

    assert find("flux1-encoders", folder) == snapshot


def test_the_persons_own_goes_first(folder: Path, cache: Path) -> None:
    lay_in_cache(cache, SCHNELL, FLUX)
    lay(folder / "flux1-schnell", TRANSFORMER)

    assert find("flux1-schnell", folder) == folder / "flux1-schnell"


def test_a_lora_is_one_file_in_the_folder_or_the_cache(folder: Path, cache: Path) -> None:
    snapshot = lay_in_cache(cache, "XLabs-AI/flux-lora-collection", {"anime_lora.safetensors": b"anime"})
    lay(folder, {"moebius-style.safetensors": b"moebius", "mystic-realism.safetensors": b"their own"})

    assert find("anime", folder) == snapshot / "anime_lora.safetensors"
    assert find("moebius-style", folder) == folder / "moebius-style.safetensors"
    assert find("mystic-realism", folder) == folder / "mystic-realism.safetensors"
    assert not is_here("art", folder)


def test_a_file_of_a_package_is_named_after_it(folder: Path) -> None:
    lay(folder / "annotator-openpose", {"dw-ll_ucoco_384.onnx": b"joints", "yolox_l.onnx": b"people"})

    assert find("annotator-openpose/yolox_l.onnx", folder) == folder / "annotator-openpose" / "yolox_l.onnx"


@pytest.mark.parametrize("name", [name for name in TRANSFORMER if name != FIRST_SHARD])
def test_what_lacks_a_file_is_not_here(folder: Path, name: str) -> None:
    lay(folder / "flux1-dev", {each: data for each, data in TRANSFORMER.items() if each != name})

    with pytest.raises(NotHereError, match=name.rsplit("/")[-1].replace(".", r"\.")):
        find("flux1-dev", folder)


def test_a_snapshot_of_which_a_part_is_still_missing_is_not_here(folder: Path, cache: Path) -> None:
    snapshot = lay_in_cache(cache, SCHNELL, FLUX)
    (snapshot / FIRST_SHARD).resolve().unlink()  # a link that leads nowhere, as a broken download leaves it

    assert not is_here("flux1-schnell", folder)
    assert is_here("flux1-encoders", folder)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_need_each_of_their_files(folder: Path, name: str) -> None:

    lay(folder / "flux1-encoders", {each: data for each, data in ENCODERS.items() if each != name})

    assert not is_here("flux1-encoders", folder)


def test_who_looks_in_vain_is_told_what_to_do(folder: Path) -> None:
    with pytest.raises(NotHereError) as told:
        find("flux1-dev", folder)

    assert str(told.value) == (
        "flux1-dev is not here: `fluxserve models pull flux1-dev` brings it, or place a folder flux1-dev or "
        f"flux1-dev.safetensors or flux1-dev.gguf in {folder} (`pull --from PATH` links what you have)"
    )
    with pytest.raises(NotHereError, match=r"is not here: place mystic-realism\.safetensors in"):
        find("mystic-realism", folder)


def test_every_package_can_be_looked_for(folder: Path) -> None:
    lay(folder / "safety-classifier", CLASSIFIER)

    assert [name for name in PACKAGES if is_here(name, folder)] == ["safety-classifier"]
