"""The people detector reads YOLOX's answers: boxes of people, each once, in the picture's own pixels."""

from pathlib import Path

import numpy as np

from fluxserve.engine.annotators.onnx import OnnxNetwork
from fluxserve.engine.annotators.people import PeopleDetector
from tests.engine.annotators import networks

SIDE = 64
CELLS = 8 * 8 + 4 * 4 + 2 * 2


def detector(path: Path, *found: tuple[int, tuple[float, float, float, float], float, int]) -> PeopleDetector:
    """One that finds, at cells of the finest stride, (cell, (x, y, width, height) in pixels, score, class)."""
    answers = np.zeros((1, CELLS, 5 + 3), np.float32)
    for cell, (x, y, width, height), score, kind in found:
        row, column = divmod(cell, 8)
        answers[0, cell, :4] = (x / 8 - column, y / 8 - row, np.log(width / 8), np.log(height / 8))
        answers[0, cell, 4], answers[0, cell, 5 + kind] = 1.0, score
    return PeopleDetector(OnnxNetwork(networks.constant(path / "people.onnx", (SIDE, SIDE), answers)))


def test_a_person_is_found_in_the_pictures_own_pixels(tmp_path: Path) -> None:
    find = detector(tmp_path, (27, (32, 16, 20, 30), 0.9, 0))
    boxes = find(np.zeros((100, 200, 3), np.uint8))  # shown at 64/200 of its size
    assert boxes.shape == (1, 4)
    np.testing.assert_allclose(boxes[0] * SIDE / 200, (22, 1, 42, 31), atol=1e-3)


def test_other_things_and_doubtful_ones_are_not_people(tmp_path: Path) -> None:
    find = detector(tmp_path, (27, (32, 16, 20, 30), 0.9, 1), (30, (50, 16, 20, 30), 0.2, 0))
    assert find(np.zeros((64, 64, 3), np.uint8)).shape == (0, 4)


def test_two_boxes_of_one_person_are_one_and_two_people_are_two(tmp_path: Path) -> None:
    find = detector(
        tmp_path, (10, (16, 32, 20, 40), 0.7, 0), (11, (17, 32, 20, 40), 0.9, 0), (14, (50, 32, 20, 40), 0.8, 0)
    )
    boxes = find(np.zeros((64, 64, 3), np.uint8))
    assert sorted(np.round(boxes[:, 0]).tolist()) == [7, 40]
