"""The world: what it invents lies inside the picture and on the grid, and some of it is kept from training."""

from dataclasses import asdict
from io import BytesIO

import numpy as np
import pytest
import torch

from training import world


def imagined(count: int, *, held_out: bool, width: int = 256, height: int = 256) -> list[world.Scene]:
    rng = np.random.default_rng(4)
    return [world.imagine(rng, held_out=held_out, width=width, height=height) for _ in range(count)]


def combination(scene: world.Scene) -> tuple[object, ...]:
    return (*sorted((item.name, item.colour or "") for item in scene.items), scene.background)


def test_held_out_combinations_are_never_in_training() -> None:
    kept = {combination(scene) for scene in imagined(1000, held_out=True)}
    taught = {combination(scene) for scene in imagined(5000, held_out=False)}
    assert not kept & taught


def test_a_combination_is_held_out_wherever_and_however_large_it_is() -> None:
    for thing in world.THINGS[:20]:
        spots = [
            world.one(thing.name, None, "sea", size, place)
            for size in world.SIZES
            for place in world.PLACES
            for _ in range(2)
        ]
        assert len({scene.is_held_out for scene in spots}) == 1


def test_about_one_combination_in_ten_is_held_out() -> None:
    scenes = [
        world.one(thing.name, None, background, "big", "centre")
        for thing in world.THINGS
        for background in world.BACKGROUNDS
    ]
    assert 0.07 < np.mean([scene.is_held_out for scene in scenes]) < 0.13


@pytest.mark.parametrize(("width", "height"), [(256, 256), (320, 192), (192, 320)])
def test_boxes_lie_inside_the_picture_and_on_the_grid(width: int, height: int) -> None:
    for scene in imagined(400, held_out=False, width=width, height=height):
        for item in scene.items:
            assert {item.left % world.GRID, item.top % world.GRID, item.side % world.GRID} == {0}
            assert 0 <= item.left <= width - item.side
            assert 0 <= item.top <= height - item.side


def test_several_items_do_not_overlap() -> None:
    crowds = [scene for scene in imagined(800, held_out=False) if scene.relation]
    assert {scene.relation for scene in crowds} == {"left of", "above", "several"}
    for scene in crowds:
        taken = np.zeros((256, 256), int)
        for item in scene.items:
            taken[item.top : item.top + item.side, item.left : item.left + item.side] += 1
        assert taken.max() == 1


def test_a_lone_item_touches_the_edge_that_its_place_names() -> None:
    for size, side in world.SIZES.items():
        corner = {
            place: world.one("cat", None, "red", size, place).items[0] for place in ("left", "right", "top", "bottom")
        }
        assert corner["left"].left == 0
        assert corner["right"].left == 256 - side
        assert corner["top"].top == 0
        assert corner["bottom"].top == 256 - side


def test_painting_a_scene_twice_gives_the_same_pixels() -> None:
    for scene in imagined(30, held_out=False):
        picture = world.paint(scene)
        assert picture.shape == (256, 256, 3)
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, world.paint(scene))


def test_painting_leaves_the_background_as_it_was_outside_the_boxes() -> None:
    scene = world.one("dog", None, "sunset", "little", "left")
    picture, bare = world.paint(scene), world.backdrop("sunset", 256, 256)
    np.testing.assert_array_equal(picture[:, 96:], bare[:, 96:])
    assert (picture[:, :96] != bare[:, :96]).any()


@pytest.mark.parametrize("side", world.SIZES.values())
def test_every_sprite_fills_its_box(side: int) -> None:
    for name, colour in [*((thing.name, None) for thing in world.THINGS), *((shape, "red") for shape in world.SHAPES)]:
        sprite = world.sprite(name, colour, side)
        assert sprite.shape == (side, side, 4)
        rows, columns = np.nonzero(sprite[..., 3] > 127)
        assert max(np.ptp(rows), np.ptp(columns)) > 0.75 * side


def test_a_background_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'jungle'"):
        world.backdrop("jungle", 256, 256)


def test_a_scene_is_kept_as_plain_data_and_comes_back() -> None:
    for scene in (world.someone(np.random.default_rng(0), "sea"), world.one("circle", "red", "sea", "big", "centre")):
        kept = BytesIO()
        torch.save(asdict(scene), kept)
        kept.seek(0)
        assert world.from_plain(torch.load(kept, weights_only=True)) == scene
