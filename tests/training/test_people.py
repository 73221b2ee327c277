"""People of the world: whole figures inside their box, in poses whose joints are where the picture has them."""

import numpy as np
import pytest

from fluxserve.engine.annotators.skeleton import JOINTS
from training import people, world

HANGING = people.Side(0, 0, 0, 0)


@pytest.mark.parametrize("action", people.ACTIONS)
def test_every_joint_lies_inside_the_box(action: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        figure = people.figure(rng)
        joints = people.joints(figure.pose)
        assert joints.shape == (len(JOINTS), 2)
        assert figure.action in people.ACTIONS
        assert joints.min() >= 0
        assert joints.max() <= 1
    assert action in {people.figure(rng).action for _ in range(200)}


def test_hands_are_where_the_wrists_are() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        pose = people.figure(rng).pose
        sprite = people.sprite(pose, world.COLOURS["green"], 224)
        for wrist in (4, 7):
            x, y = (224 * people.joints(pose)[wrist]).astype(int)
            assert sprite[y, x, 3] == 255
            assert np.abs(sprite[y, x, :3].astype(int) - people.SKIN).max() < 12


def test_the_right_side_of_a_person_is_at_the_pictures_left() -> None:
    joints = people.joints(people.Pose(0, HANGING, HANGING))
    by_name = dict(zip(JOINTS, joints, strict=True))
    for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "eye", "ear"):
        assert by_name[f"right {part}"][0] < by_name[f"left {part}"][0]


def test_clothes_have_their_colour() -> None:
    scene = world.someone(np.random.default_rng(3), "snow")
    item = scene.items[0]
    assert item.colour is not None
    painted = world.paint(scene).reshape(-1, 3).astype(int)
    near = np.abs(painted - world.COLOURS[item.colour]).max(1) < 3
    assert near.sum() > 0.02 * item.side**2
