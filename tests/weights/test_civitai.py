"""Civitai's LoRAs: the newest version for FLUX.1, or the one that was named; safetensors with a checksum alone."""

from pathlib import Path

import pytest

from fluxserve.domain.weights import PACKAGES
from fluxserve.weights import find, is_here
from fluxserve.weights.civitai import CivitaiStore
from fluxserve.weights.errors import PullError
from fluxserve.weights.hub import HubStore
from fluxserve.weights.pull import Puller
from tests.weights.standins import Site, version

NAME, MODEL = "moebius-style", 682651
LORA = bytes(range(256)) * 2000


def pulled(site: Site, folder: Path, *, token: str | None = None, number: int | None = None) -> Path:
    store = CivitaiStore(token, number, site.url)
    pulling = Puller(folder, hub=HubStore(), civitai=store, pauses=(0.0, 0.0))
    return pulling.fetch(pulling.plan(PACKAGES[NAME]), lambda _: None)


def offer(site: Site, *versions: dict[str, object]) -> None:
    site.answers[f"/api/v1/models/{MODEL}"] = {"id": MODEL, "modelVersions": list(versions)}


def test_the_newest_version_for_flux1_becomes_the_lora(civitai: Site, folder: Path) -> None:
    offer(
        civitai,
        version(civitai, 3, "sdxl.safetensors", b"for another", base="SDXL 1.0", published="2025-01-01"),
        version(civitai, 1, "old.safetensors", b"old", published="2024-08-01"),
        version(civitai, 2, "Moebius.safetensors", LORA, published="2024-09-01"),
    )

    assert pulled(civitai, folder) == folder / f"{NAME}.safetensors" == find(NAME, folder)
    assert (folder / f"{NAME}.safetensors").read_bytes() == LORA
    assert sorted(path.name for path in folder.iterdir()) == [".lock", f"{NAME}.safetensors"]


def test_a_version_can_be_named(civitai: Site, folder: Path) -> None:
    version(civitai, 1, "old.safetensors", b"old", modelId=MODEL)

    assert pulled(civitai, folder, number=1).read_bytes() == b"old"


@pytest.mark.parametrize(
    ("more", "words"),
    [({"modelId": 5}, "version 1 is none of moebius-style"), ({"modelId": MODEL, "base": "Pony"}, "is for Pony")],
)
def test_a_version_of_something_else_is_refused(civitai: Site, folder: Path, more: dict[str, str], words: str) -> None:
    version(civitai, 1, "other.safetensors", b"other", **more)

    with pytest.raises(PullError, match=words):
        pulled(civitai, folder, number=1)


def test_a_model_without_a_version_for_flux1_is_refused(civitai: Site, folder: Path) -> None:
    offer(civitai, version(civitai, 3, "sdxl.safetensors", b"for another", base="SDXL 1.0"))

    with pytest.raises(PullError, match=r"is not there for FLUX\.1, but for SDXL 1\.0"):
        pulled(civitai, folder)


def test_a_broken_connection_is_taken_up_where_it_broke(civitai: Site, folder: Path) -> None:
    offer(civitai, version(civitai, 2, "Moebius.safetensors", LORA))
    civitai.cuts["2"] = [200_000, 0, 0, 0]

    with pytest.raises(PullError, match="the next pull goes on from there"):
        pulled(civitai, folder)
    pulled(civitai, folder)

    assert civitai.asked_for("2")[-1].began_at == 200_000
    assert civitai.sent["2"] == len(LORA)


def test_a_wrong_checksum_is_refused_and_nothing_stays(civitai: Site, folder: Path) -> None:
    offer(civitai, version(civitai, 2, "Moebius.safetensors", LORA))
    civitai.sends["2"] = LORA[::-1]

    with pytest.raises(PullError, match="is not what its source says"):
        pulled(civitai, folder)
    assert not is_here(NAME, folder)
    assert [path.name for path in folder.rglob("*") if path.is_file()] == [".lock"]


@pytest.mark.parametrize("name", ["moebius.pt", "moebius.ckpt", "moebius.bin", "moebius.zip"])
def test_a_version_with_only_a_pickle_is_refused_without_asking_for_its_bytes(
    civitai: Site, folder: Path, name: str
) -> None:
    offer(civitai, version(civitai, 2, name, b"pickle"))

    with pytest.raises(PullError, match=f"has {name}: only safetensors with a checksum are pulled"):
        pulled(civitai, folder)
    assert not [each for each in civitai.heard if "download" in each.path]


def test_so_is_one_that_calls_a_pickle_safetensors(civitai: Site, folder: Path) -> None:
    told = version(civitai, 2, "moebius.safetensors", b"pickle")
    told["files"][0]["metadata"]["format"] = "PickleTensor"
    offer(civitai, told)

    with pytest.raises(PullError, match="only safetensors"):
        pulled(civitai, folder)


@pytest.mark.parametrize("status", [401, 403])
def test_what_needs_an_account_says_so(civitai: Site, folder: Path, status: int) -> None:
    offer(civitai, version(civitai, 2, "Moebius.safetensors", LORA))
    civitai.refused["2"] = status

    with pytest.raises(PullError, match=r"look at https://civitai\.com/models/682651, and set CIVITAI_TOKEN"):
        pulled(civitai, folder)
    assert pulled(civitai, folder, token="theirs").read_bytes() == LORA
    assert [each for each in civitai.heard if each.path.startswith("/bytes/") and "authorization" in each.headers] == []


def test_a_page_to_log_in_at_is_no_lora(civitai: Site, folder: Path) -> None:
    told = version(civitai, 2, "Moebius.safetensors", LORA)
    told["files"][0]["downloadUrl"] = f"{civitai.url}/login"
    civitai.pages["/login"] = b"<html>Log in</html>"
    offer(civitai, told)

    with pytest.raises(PullError, match="CIVITAI_TOKEN"):
        pulled(civitai, folder)


def test_a_model_that_is_gone_can_be_placed(civitai: Site, folder: Path) -> None:
    with pytest.raises(PullError, match=rf"has it no more .*; place moebius-style\.safetensors in {folder}"):
        pulled(civitai, folder)


@pytest.mark.parametrize("answer", [[], {"modelVersions": [{"id": 2, "baseModel": "Flux.1 D"}]}, {}])
def test_an_answer_of_another_shape_is_refused_in_words(civitai: Site, folder: Path, answer: object) -> None:
    civitai.answers[f"/api/v1/models/{MODEL}"] = answer

    with pytest.raises(PullError):
        pulled(civitai, folder)
