"""What is pulled arrives whole, once, and with its checksum; what can't be pulled is refused in words that help."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fluxserve.domain.weights import PACKAGES
from fluxserve.weights import find, is_here
from fluxserve.weights.civitai import CivitaiStore
from fluxserve.weights.errors import LicenceError, PullError
from fluxserve.weights.hub import HubStore
from fluxserve.weights.pull import Puller, check_licence
from tests.weights.packages import BESIDE, CLASSIFIER, ENCODERS, FIRST_SHARD, FLUX, TRANSFORMER, lay
from tests.weights.standins import COMMIT, Site

SCHNELL, SAFETY = "black-forest-labs/FLUX.1-schnell", "Falconsai/nsfw_image_detection"
ROOM = 10**12
Pull = Callable[[str], Path]


def puller(site: Site, folder: Path, *, free: int = ROOM, pauses: tuple[float, ...] = (0.0, 0.0)) -> Puller:
    return Puller(folder, hub=HubStore(site.url), civitai=CivitaiStore(), free_bytes=lambda _: free, pauses=pauses)


def pulled(site: Site, folder: Path, name: str, on_bytes: Callable[[int], None] = lambda _: None) -> Path:
    """By a pull of its own, as a command is one."""
    pulling = puller(site, folder)
    plan = pulling.plan(PACKAGES[name])
    pulling.check_room([plan])
    return pulling.fetch(plan, on_bytes)


def of(repository: str, name: str) -> str:
    return f"{repository}/{name}"


def test_a_package_comes_with_its_files_and_no_others(hub: Site, folder: Path) -> None:
    hub.put(SCHNELL, **FLUX)

    place = pulled(hub, folder, "flux1-schnell")

    assert place == find("flux1-schnell", folder) == folder / "flux1-schnell"
    came = {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert came == TRANSFORMER
    assert [path for path in folder.iterdir() if path.name != ".lock"] == [place]


def test_two_packages_of_one_repository_do_not_bring_each_others_files(hub: Site, folder: Path) -> None:
    hub.put(SCHNELL, **FLUX)

    place = pulled(hub, folder, "flux1-encoders")

    assert {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()} == set(ENCODERS)


def test_progress_adds_up_to_the_size(hub: Site, folder: Path) -> None:
    hub.put(SCHNELL, **FLUX)
    counts: list[int] = []

    pulled(hub, folder, "flux1-schnell", counts.append)

    assert sum(counts) == puller(hub, folder / "elsewhere").plan(PACKAGES["flux1-schnell"]).size
    assert len(counts) > len(TRANSFORMER)  # a large one comes in parts


def test_a_lora_becomes_a_file_of_its_own_name(hub: Site, folder: Path) -> None:
    hub.put("XLabs-AI/flux-lora-collection", **{"anime_lora.safetensors": b"anime", "art_lora.safetensors": b"art"})

    assert pulled(hub, folder, "anime") == folder / "anime.safetensors" == find("anime", folder)
    assert (folder / "anime.safetensors").read_bytes() == b"anime"


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub: Site, folder: Path) -> None:
    hub.put(SCHNELL, **FLUX)
    path, half = of(SCHNELL, FIRST_SHARD), len(FLUX[FIRST_SHARD]) // 2
    hub.cuts[path] = [half]

    place = pulled(hub, folder, "flux1-schnell")

    assert (place / FIRST_SHARD).read_bytes() == FLUX[FIRST_SHARD]
    assert [each.began_at for each in hub.asked_for(path)] == [None, half]
    assert hub.sent[path] == len(FLUX[FIRST_SHARD])


def test_a_pull_that_gave_up_goes_on_at_the_next(hub: Site, folder: Path) -> None:
    hub.put(SCHNELL, **FLUX)
    path, size = of(SCHNELL, FIRST_SHARD), len(FLUX[FIRST_SHARD])
    half = size // 2
    hub.cuts[path] = [half, 0, 0, 0]

    with pytest.raises(PullError, match="the next pull goes on from there"):
        pulled(hub, folder, "flux1-schnell")
    assert not is_here("flux1-schnell", folder)
    plan = puller(hub, folder).plan(PACKAGES["flux1-schnell"])
    assert plan.size - plan.missing >= half
    pulled(hub, folder, "flux1-schnell")

    assert (folder / "flux1-schnell" / FIRST_SHARD).read_bytes() == FLUX[FIRST_SHARD]
    assert hub.asked_for(path)[-1].began_at == half
    assert hub.sent[path] == size
    assert hub.sent[of(SCHNELL, "transformer/config.json")] == len(FLUX["transformer/config.json"])  # once in both


def test_a_line_that_breaks_again_and_again_gets_on(hub: Site, folder: Path) -> None:
    hub.put(SCHNELL, **FLUX)
    hub.cuts[of(SCHNELL, FIRST_SHARD)] = [100_000] * 9

    pulled(hub, folder, "flux1-schnell")

    assert hub.sent[of(SCHNELL, FIRST_SHARD)] == len(FLUX[FIRST_SHARD])


def test_where_ranges_are_not_given_it_begins_anew(hub: Site, folder: Path) -> None:
    hub.put(SCHNELL, **FLUX)
    hub.takes_ranges = False
    hub.cuts[of(SCHNELL, FIRST_SHARD)] = [100_000]
    counts: list[int] = []

    place = pulled(hub, folder, "flux1-schnell", counts.append)

    assert (place / FIRST_SHARD).read_bytes() == FLUX[FIRST_SHARD]
    assert sum(counts) == sum(map(len, TRANSFORMER.values()))


def test_a_newer_version_takes_nothing_of_what_was_begun_of_the_old_one(hub: Site, folder: Path) -> None:
    hub.put(SCHNELL, **FLUX)
    hub.cuts[of(SCHNELL, FIRST_SHARD)] = [100_000, 0, 0, 0]
    with pytest.raises(PullError):
        pulled(hub, folder, "flux1-schnell")
    hub.commit = COMMIT[::-1]

    pulled(hub, folder, "flux1-schnell")

    assert hub.asked_for(of(SCHNELL, FIRST_SHARD))[-1].began_at is None
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "flux1-schnell"]


@pytest.mark.parametrize("sent", [b"other", b"The rest"], ids=["another size", "the same size"])
def test_a_wrong_checksum_is_refused_and_nothing_of_it_stays(hub: Site, folder: Path, sent: bytes) -> None:
    hub.put(SCHNELL, **FLUX)
    name = "transformer/diffusion_pytorch_model-00002-of-00002.safetensors"
    hub.sends[of(SCHNELL, name)] = sent

    with pytest.raises(PullError, match=r"00002-of-00002\.safetensors is not what its source says"):
        pulled(hub, folder, "flux1-schnell")

    assert not is_here("flux1-schnell", folder)
    assert [path for path in folder.rglob("*") if path.is_file() and path.read_bytes() == sent] == []
    del hub.sends[of(SCHNELL, name)]
    pulled(hub, folder, "flux1-schnell")
    assert hub.sent[of(SCHNELL, FIRST_SHARD)] == len(FLUX[FIRST_SHARD])  # what was right was kept


def test_no_pickle_is_ever_asked_for(hub: Site, folder: Path) -> None:
    hub.put(SAFETY, **CLASSIFIER, **{"pytorch_model.bin": b"a pickle"})
    hub.put(SCHNELL, **FLUX)

    pulled(hub, folder, "safety-classifier")
    pulled(hub, folder, "flux1-schnell")

    assert not [each.path for each in hub.heard if each.path.endswith((".bin", ".ckpt"))]
    assert not [name for name in BESIDE if hub.sent[of(SCHNELL, name)]]


def test_a_name_that_leads_outside_is_not_brought(hub: Site, folder: Path) -> None:
    hub.put(SCHNELL, **FLUX, **{"transformer/../../../outside.json": b"{}"})

    pulled(hub, folder, "flux1-schnell")

    assert not [each for each in hub.heard if "outside" in each.path]


def test_a_repository_without_what_is_needed_is_refused_before_the_first_byte(hub: Site, folder: Path) -> None:
    hub.put(SCHNELL, **{name: data for name, data in FLUX.items() if not name.startswith("scheduler/")})

    with pytest.raises(PullError, match="no longer with these files"):
        pulled(hub, folder, "flux1-schnell")
    assert not [each for each in hub.heard if "/resolve/" in each.path]


def test_a_repository_that_has_only_a_pickle_is_refused(hub: Site, folder: Path) -> None:
    hub.put(SAFETY, **{"pytorch_model.bin": b"a pickle"})

    with pytest.raises(PullError, match="no longer with these files"):
        pulled(hub, folder, "safety-classifier")
    assert hub.asked_for(of(SAFETY, "pytorch_model.bin")) == []


@pytest.mark.parametrize("status", [401, 403])
def test_who_has_not_accepted_a_licence_is_told_where_and_how(hub: Site, folder: Path, status: int) -> None:
    hub.put("black-forest-labs/FLUX.1-dev", **FLUX)
    hub.refused["black-forest-labs/FLUX.1-dev"] = status

    with pytest.raises(PullError) as told:
        pulled(hub, folder, "flux1-dev")

    assert "accept it at https://huggingface.co/black-forest-labs/FLUX.1-dev, and set HF_TOKEN" in str(told.value)


def test_who_has_a_token_gets_it_and_the_token_goes_nowhere_else(
    hub: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put("black-forest-labs/FLUX.1-dev", **FLUX)
    hub.refused["black-forest-labs/FLUX.1-dev"] = 401
    monkeypatch.setenv("HF_TOKEN", "hf_theirs")

    pulled(hub, folder, "flux1-dev")

    assert {each.headers.get("authorization") for each in hub.heard if "/resolve/" in each.path} == {"Bearer hf_theirs"}
    assert [each for each in hub.heard if each.path.startswith("/bytes/") and "authorization" in each.headers] == []


def test_what_is_not_on_the_hub_can_be_placed(hub: Site, folder: Path) -> None:
    with pytest.raises(PullError, match=rf"is not on the hub.*; place a folder flux1-dev or .* in {folder}"):
        pulled(hub, folder, "flux1-dev")


def test_what_has_no_source_can_be_placed(hub: Site, folder: Path) -> None:
    with pytest.raises(PullError, match=rf"place mystic-realism\.safetensors in {folder}"):
        pulled(hub, folder, "mystic-realism")


def test_a_hub_that_does_not_answer_is_named(folder: Path) -> None:
    with pytest.raises(PullError, match=f"the hub can't be asked for {SCHNELL}"):
        puller(Site(url="http://127.0.0.1:9"), folder).plan(PACKAGES["flux1-schnell"])


def test_a_disk_without_room_is_told_before_the_first_byte(hub: Site, folder: Path) -> None:
    hub.put(SCHNELL, **FLUX)
    pulling = puller(hub, folder, free=501_000_000)
    plan = pulling.plan(PACKAGES["flux1-schnell"])

    with pytest.raises(PullError) as told:
        pulling.check_room([plan])

    assert f"the disk of {folder} has 501.0 MB free, and 502.0 MB are needed" in str(told.value)
    assert not [each for each in hub.heard if "/resolve/" in each.path]


def test_only_what_is_missing_needs_room(hub: Site, folder: Path) -> None:
    hub.put(SCHNELL, **FLUX)
    hub.cuts[of(SCHNELL, FIRST_SHARD)] = [2_000_000, 0, 0, 0]
    with pytest.raises(PullError):
        pulled(hub, folder, "flux1-schnell")

    pulling = puller(hub, folder, free=500_100_000)
    pulling.check_room([pulling.plan(PACKAGES["flux1-schnell"])])


def test_a_disk_that_fills_up_on_the_way_is_told_in_words(hub: Site, small_disk: Path) -> None:
    hub.put(SCHNELL, **(FLUX | {FIRST_SHARD: bytes(8_000_000)}))

    with pytest.raises(PullError, match=r"flux1-schnell can't be written to .*: No space left on device"):
        pulled(hub, small_disk, "flux1-schnell")


def test_half_a_folder_in_the_way_is_not_overwritten(hub: Site, folder: Path) -> None:
    hub.put(SCHNELL, **FLUX)
    lay(folder / "flux1-schnell", {"transformer/config.json": b"theirs"})

    with pytest.raises(PullError, match=r"flux1-schnell is there, but lacks .*`fluxserve models remove flux1-schnell`"):
        pulled(hub, folder, "flux1-schnell")
    assert (folder / "flux1-schnell/transformer/config.json").read_bytes() == b"theirs"


def test_a_link_that_leads_nowhere_is_told_before_anything_is_brought(hub: Site, folder: Path) -> None:
    hub.put(SCHNELL, **FLUX)
    folder.mkdir()
    (folder / "flux1-schnell").symlink_to(folder / "gone")

    with pytest.raises(PullError, match="`fluxserve models remove flux1-schnell`"):
        pulled(hub, folder, "flux1-schnell")


def test_two_pulls_at_once_do_not_write_to_the_same_files(hub: Site, folder: Path) -> None:
    hub.put(SCHNELL, **FLUX)
    pulling = puller(hub, folder)
    plan = pulling.plan(PACKAGES["flux1-schnell"])

    def while_it_runs(_: int) -> None:
        with pytest.raises(PullError, match=r"another pull into .* is under way"):
            pulled(hub, folder, "flux1-encoders")

    pulling.fetch(plan, while_it_runs)


def test_a_licence_that_asks_something_must_be_accepted() -> None:
    check_licence(PACKAGES["flux1-schnell"], is_accepted=False)
    check_licence(PACKAGES["flux1-dev"], is_accepted=True)
    with pytest.raises(LicenceError, match=r"FLUX\.1-dev/blob/main/LICENSE\.md.*--accept-license"):
        check_licence(PACKAGES["flux1-dev"], is_accepted=False)
    with pytest.raises(LicenceError, match=r"https://civitai\.com/models/682651"):
        check_licence(PACKAGES["moebius-style"], is_accepted=False)
