"""The judge is judged: right on true pictures, also poor ones, and never taken in by a blur or by nothing."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from training import judge, world
from training.evaluate import held_out_scenes, marks

SCENES = held_out_scenes(110)


def blurred(picture: world.Pixels, deviation: float) -> world.Pixels:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(deviation)))


def noisy(picture: world.Pixels, deviation: float) -> world.Pixels:
    noise = np.random.default_rng(6).normal(0, deviation, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def double_exposure() -> world.Pixels:
    """A cat and a rocket at the same spot, half of either."""
    cat, rocket = (
        world.paint(world.Scene((world.Placed(name, None, 224, 0, 32),), "teal")).astype(int)
        for name in ("cat", "rocket")
    )
    both: world.Pixels = ((cat + rocket) // 2).astype(np.uint8)
    return both


@pytest.fixture(scope="module")
def seen() -> dict[str, list[judge.Verdict]]:
    """What the judge says of each kind of picture; all judged at once, because most of the work is the references."""
    true = [world.paint(scene) for scene in SCENES]
    backdrops = [world.backdrop(name, 256, 256) for name in world.BACKGROUNDS]
    kinds = {
        "true": true,
        "slightly blurred": [blurred(picture, 2.5) for picture in true[:40]],
        "noisy": [noisy(picture, 15) for picture in true[:40]],
        "smudged": [
            blurred(picture, scene.items[0].side / 10) for picture, scene in zip(true[:30], SCENES, strict=False)
        ],
        "empty": backdrops,
        "empty and noisy": [noisy(backdrop, 12) for backdrop in backdrops],
        "noise": list(np.random.default_rng(7).integers(0, 256, (3, 256, 256, 3), np.uint8)),
        "double": [double_exposure()],
    }
    verdicts = iter(judge.verdicts(np.stack([picture for pictures in kinds.values() for picture in pictures])))
    return {kind: [next(verdicts) for _ in pictures] for kind, pictures in kinds.items()}


@pytest.mark.parametrize(("kind", "share"), [("true", 0.99), ("slightly blurred", 0.95), ("noisy", 0.95)])
def test_likenesses_are_judged_right(seen: dict[str, list[judge.Verdict]], kind: str, share: float) -> None:
    right = [marks(scene, verdict)["all"] for scene, verdict in zip(SCENES, seen[kind], strict=False)]
    assert np.mean(right) >= share


@pytest.mark.parametrize("kind", ["smudged", "empty", "empty and noisy", "noise", "double"])
def test_what_is_like_nothing_does_not_count_as_drawn(seen: dict[str, list[judge.Verdict]], kind: str) -> None:
    assert [verdict for verdict in seen[kind] if verdict.is_drawn] == []


@pytest.mark.parametrize(
    ("size", "place"), [("big", "centre"), *((size, place) for size in ("little", "medium") for place in world.PLACES)]
)
def test_a_spot_is_called_by_the_place_it_was_made_for(size: str, place: str) -> None:
    item = world.one("cat", None, "red", size, place).items[0]
    assert judge.place_of(item.side, item.left, item.top) == place


def test_a_corner_is_no_place_of_the_world() -> None:
    assert judge.place_of(96, 0, 0) == judge.ELSEWHERE
    assert judge.place_of(96, 32, 64) == judge.ELSEWHERE


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="256"):
        judge.verdicts(np.zeros((1, 192, 320, 3), np.uint8))
