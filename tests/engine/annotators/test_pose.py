"""Poses: a network's columns and rows become joints in the picture's own pixels, and joints become sticks."""

from pathlib import Path

import numpy as np
import pytest

from fluxserve.engine.annotators import skeleton
from fluxserve.engine.annotators.onnx import OnnxNetwork
from fluxserve.engine.annotators.people import PeopleDetector
from fluxserve.engine.annotators.pose import COCO, Pose
from tests.engine.annotators import networks
from tests.engine.annotators.test_people import detector

WIDTH, HEIGHT = 48, 64
FINER = 2  # bins a pixel, as RTMPose has them
NAMES = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
    "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
    "right ankle",
)  # fmt: skip


def network(path: Path, joints: dict[str, tuple[float, float]], score: float = 0.9) -> OnnxNetwork:
    """Sees these of COCO's joints, at (x, y) of the 48x64 pixels that it is shown, and others hardly at all."""
    columns = np.full((1, 17, WIDTH * FINER), 0.01, np.float32)
    rows = np.full((1, 17, HEIGHT * FINER), 0.01, np.float32)
    for name, (x, y) in joints.items():
        columns[0, NAMES.index(name), round(x * FINER)] = score
        rows[0, NAMES.index(name), round(y * FINER)] = score
    return OnnxNetwork(networks.constant(path / "pose.onnx", (WIDTH, HEIGHT), columns, rows))


def joint(joints: skeleton.Joints, name: str) -> list[float]:
    assert joints.shape == (1, 18, 2)
    found: list[float] = joints[0, skeleton.JOINTS.index(name)].tolist()
    return found


def test_cocos_joints_have_their_own_names_in_the_skeleton() -> None:
    for name, number in zip(skeleton.JOINTS, COCO, strict=True):
        assert (name == "neck") if number is None else (NAMES[number] == name)


def test_joints_are_in_the_pictures_own_pixels(tmp_path: Path) -> None:
    pose = Pose(network(tmp_path, {"nose": (24, 10), "left wrist": (40.5, 32)}), None)
    found = pose.joints(np.zeros((2 * HEIGHT, 2 * WIDTH, 3), np.uint8))
    assert joint(found, "nose") == pytest.approx([48, 20])
    assert joint(found, "left wrist") == pytest.approx([81, 64])


def test_a_picture_of_another_shape_is_shown_whole_in_the_middle(tmp_path: Path) -> None:
    pose = Pose(network(tmp_path, {"nose": (24, 32)}), None)
    found = pose.joints(np.zeros((100, 300, 3), np.uint8))
    assert joint(found, "nose") == pytest.approx([150, 50])


def test_the_neck_lies_between_the_shoulders_if_both_are_seen(tmp_path: Path) -> None:
    both = Pose(network(tmp_path, {"left shoulder": (30, 20), "right shoulder": (18, 22)}), None)
    assert joint(both.joints(np.zeros((HEIGHT, WIDTH, 3), np.uint8)), "neck") == pytest.approx([24, 21])
    one = Pose(network(tmp_path, {"left shoulder": (30, 20)}), None)
    assert np.isnan(joint(one.joints(np.zeros((HEIGHT, WIDTH, 3), np.uint8)), "neck")).all()


def test_joints_that_it_is_not_sure_of_are_not_drawn(tmp_path: Path) -> None:
    pose = Pose(network(tmp_path, {"nose": (24, 10)}, score=0.25), None)
    assert not pose(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).any()


def test_with_a_detector_each_person_is_looked_at_alone(tmp_path: Path) -> None:
    seen: PeopleDetector = detector(tmp_path, (10, (16, 32, 24, 32), 0.9, 0), (14, (48, 32, 24, 32), 0.9, 0))
    pose = Pose(network(tmp_path, {"nose": (24, 32)}), seen)  # in the middle of its box
    found = pose.joints(np.zeros((64, 64, 3), np.uint8))
    assert found.shape == (2, 18, 2)
    assert sorted(found[:, 0, 0].tolist()) == pytest.approx([16, 48])
    assert pose(np.zeros((64, 64, 3), np.uint8)).any()


def test_where_nobody_is_the_map_is_black(tmp_path: Path) -> None:
    pose = Pose(network(tmp_path, {"nose": (24, 32)}), detector(tmp_path))
    assert pose.joints(np.zeros((64, 64, 3), np.uint8)).shape == (0, 18, 2)
    assert not pose(np.zeros((64, 64, 3), np.uint8)).any()
