"""Skeletons: sticks in the colours that control networks for poses were taught with."""

import numpy as np

from fluxserve.engine.annotators import skeleton

NOBODY = np.full((18, 2), np.nan)


def test_joints_go_once_round_the_colour_wheel() -> None:
    assert len(skeleton.JOINTS) == len(skeleton.COLOURS) == 18
    assert skeleton.COLOURS[:4] == ((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0))
    assert skeleton.COLOURS[6] == (0, 255, 0)
    assert skeleton.COLOURS[12] == (0, 0, 255)


def test_a_limb_joins_two_joints_in_its_own_colour_darkened() -> None:
    person = NOBODY.copy()
    person[2], person[3] = (20, 60), (100, 60)  # right upper arm, the third limb
    drawn = skeleton.drawn(person[None], (128, 128))
    assert tuple(drawn[60, 60]) == (153, 102, 0)
    assert tuple(drawn[60, 20]) == skeleton.COLOURS[2]
    assert tuple(drawn[60, 100]) == skeleton.COLOURS[3]
    assert not drawn[:50].any()
    assert not drawn[70:].any()


def test_a_joint_that_is_not_seen_has_neither_dot_nor_limbs() -> None:
    person = NOBODY.copy()
    person[0] = (64, 30)
    drawn = skeleton.drawn(person[None], (128, 128))
    assert {tuple(colour) for colour in drawn.reshape(-1, 3)} == {(0, 0, 0), (255, 0, 0)}


def test_nobody_is_a_black_picture() -> None:
    assert not skeleton.drawn(np.empty((0, 18, 2)), (64, 32)).any()
    assert not skeleton.drawn(NOBODY[None], (64, 32)).any()


def test_joints_outside_the_picture_do_no_harm() -> None:
    person = np.tile(np.array([[-500.0, 9000.0]]), (18, 1))
    assert skeleton.drawn(person[None], (64, 64)).shape == (64, 64, 3)


def test_sticks_are_wider_in_a_large_picture() -> None:
    person = NOBODY.copy()
    person[0] = (512, 512)
    area = [(skeleton.drawn(person[None], (side, side)) > 0).any(2).sum() for side in (600, 1024)]
    assert area[1] > 2 * area[0]
