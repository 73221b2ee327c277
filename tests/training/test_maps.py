"""Control maps as the world knows them: of the picture's size, and true to what was painted."""

import numpy as np
import pytest

from fluxserve.domain.catalog import CONTROL_STRENGTHS
from training import maps, world

CIRCLE = world.one("circle", "red", "white", "medium", "left")


def someone() -> world.Scene:
    return world.someone(np.random.default_rng(5), "grass")


@pytest.mark.parametrize("control", CONTROL_STRENGTHS)
def test_every_control_type_has_a_map_of_the_pictures_size(control: str) -> None:
    drawn = maps.control_map(control, world.one("cat", None, "sea", "medium", "top", 320, 192))
    assert drawn.shape == (192, 320, 3)
    assert drawn.dtype == np.uint8
    assert maps.control_map(control, someone()).any()


def test_a_control_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="no control is called 'x'"):
        maps.control_map("x", CIRCLE)


def test_the_middle_of_a_thing_is_nearest_and_what_is_behind_farthest() -> None:
    near = maps.depth(CIRCLE)
    assert near[112, 80] > 0.98  # the circle's middle
    assert near[112, 240] == 0
    assert 0.5 < near[112, 10] < 0.8  # its rim


def test_the_ground_comes_nearer_towards_the_lower_edge() -> None:
    down = maps.depth(world.Scene((), "grass"))[:, 0]
    assert down[0] == 0
    assert (np.diff(down[130:]) > 0).all()


def test_soft_edges_are_strongest_on_outlines_and_none_on_flat_colour() -> None:
    edges = maps.soft_edges(CIRCLE)
    assert edges[112, 7:13].max() > 0.8  # the circle's left
    assert edges[112, 60:100].max() == 0
    assert edges[:20].max() == 0


def test_only_people_have_joints() -> None:
    assert maps.joints(CIRCLE).shape == (0, 18, 2)
    assert not maps.control_map("openpose", CIRCLE).any()
    scene = someone()
    item, joints = scene.items[0], maps.joints(scene)
    assert joints.shape == (1, 18, 2)
    assert (joints >= (item.left, item.top)).all()
    assert (joints <= (item.left + item.side, item.top + item.side)).all()
