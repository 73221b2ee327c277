"""What comes stays while there is room, and what goes is what was used longest ago and is not needed."""

import pytest
import torch

from fluxserve.engine.guests import Guests, MakeRoom
from fluxserve.engine.weights import Loader

CPU = torch.device("cpu")


@pytest.fixture
def guests() -> Guests:
    return Guests(CPU, room=100)


def came(guests: Guests, name: str, size: int = 40, needed: tuple[str, ...] = ()) -> object:
    def load(make_room: MakeRoom) -> object:
        make_room(size)
        return object()

    return guests.get(name, {name, *needed}, load)


def has_spare(guests: Guests) -> bool:
    return guests.spare is not None


def here(guests: Guests) -> list[str]:
    return [name for name in ("a", "b", "c", "d") if name in guests]


def test_what_is_here_is_not_loaded_again(guests: Guests) -> None:
    assert came(guests, "a") is came(guests, "a")
    assert guests.taken == 40


def test_the_one_used_longest_ago_goes(guests: Guests) -> None:
    for name in ("a", "b", "a", "c"):
        came(guests, name)
    assert here(guests) == ["a", "c"]


def test_only_so_many_go_as_must(guests: Guests) -> None:
    for name in ("a", "b", "c"):
        came(guests, name, 30)
    came(guests, "d", 41)
    assert here(guests) == ["c", "d"]


def test_what_is_needed_stays_though_there_be_no_room(guests: Guests) -> None:
    came(guests, "a")
    came(guests, "b")
    came(guests, "c", 90, needed=("a",))
    assert here(guests) == ["a", "c"]
    assert guests.taken == 130


def test_what_could_not_be_loaded_is_not_here(guests: Guests) -> None:
    def load(make_room: MakeRoom) -> object:
        make_room(90)
        raise torch.OutOfMemoryError

    came(guests, "a")
    with pytest.raises(torch.OutOfMemoryError):
        guests.get("b", {"b"}, load)
    assert here(guests) == []
    assert guests.taken == 0


def test_there_is_room_for_the_first_however_large(guests: Guests) -> None:
    assert guests.would_fit(101)
    came(guests, "a")
    assert guests.would_fit(60)
    assert not guests.would_fit(61)


def test_a_spare_copy_is_kept_where_there_is_room_and_goes_first(loader: Loader) -> None:
    """What a LoRA is put on from, on a GPU."""
    checkpoint = loader.load("dev").own.checkpoint
    part = next(iter(checkpoint.parts.values()))
    guests = Guests(torch.device("meta"), room=1 << 40)  # whatever is none of a CPU
    came(guests, "a")
    guests.keep_spare(checkpoint, torch.float32)
    assert has_spare(guests)
    assert checkpoint.weight(part, CPU).device.type == "meta"
    assert guests.taken > 40

    guests.room = guests.taken
    came(guests, "b", 1)
    assert not has_spare(guests)
    assert here(guests) == ["a", "b"]
    assert checkpoint.weight(part, CPU).device.type == "cpu"

    guests.room -= 42
    guests.keep_spare(checkpoint, torch.float32)
    assert not has_spare(guests)


def test_on_a_cpu_no_spare_copy_is_wanted(loader: Loader, guests: Guests) -> None:
    guests.room = 1 << 40
    guests.keep_spare(loader.load("dev").own.checkpoint, torch.float32)
    assert not has_spare(guests)
    assert guests.taken == 0
