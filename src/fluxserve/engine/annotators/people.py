"""Finds people in a picture, by YOLOX (Ge et al., 2021)."""

import cv2
import numpy as np
from numpy.typing import NDArray

from fluxserve.engine.annotators.onnx import Floats, OnnxNetwork
from fluxserve.engine.png import Pixels

Boxes = NDArray[np.float64]

STRIDES = (8, 16, 32)  # pixels of a cell, finest first
PERSON = 0  # among COCO's classes
LEAST_SCORE = 0.3
MOST_OVERLAP = 0.45  # of two boxes that are not the same person's
PADDING = 114  # gray beside a picture of another shape
DEFAULT_SIZE = (640, 640)
MOST_PEOPLE = 16  # the surest


class PeopleDetector:
    def __init__(self, network: OnnxNetwork) -> None:
        self._network = network
        self._size = network.size or DEFAULT_SIZE

    def __call__(self, pixels: Pixels) -> Boxes:
        """Boxes of people, (n, 4): left, top, right, bottom in pixels."""
        width, height = self._size
        scale = min(width / pixels.shape[1], height / pixels.shape[0])
        inside = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        shown = np.full((height, width, 3), PADDING, np.float32)
        shown[: inside[1], : inside[0]] = cv2.resize(pixels, inside)[..., ::-1]
        boxes, scores = self._read(self._network.run(shown)[0][0])
        sides = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1)  # as OpenCV wants them
        kept = cv2.dnn.NMSBoxes(sides.tolist(), scores.tolist(), LEAST_SCORE, MOST_OVERLAP, top_k=MOST_PEOPLE)
        found: Boxes = boxes[np.asarray(kept, int).reshape(-1)] / scale
        return found

    def _read(self, answers: Floats) -> tuple[Boxes, Floats]:
        """YOLOX's answers, one a cell: the box's middle from the cell's corner, in cells; the logarithms of its sides;
        how sure it is of a thing, and of each class."""
        corners, strides = _cells(self._size)
        middles = (answers[:, :2] + corners) * strides
        halves = np.exp(answers[:, 2:4]) * strides / 2
        boxes = np.concatenate((middles - halves, middles + halves), axis=1).astype(np.float64)
        return boxes, answers[:, 4] * answers[:, 5 + PERSON]


def _cells(size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Each cell's corner, (n, 2) in cells, and its stride, (n, 1)."""
    corners, strides = [], []
    for stride in STRIDES:
        across, down = np.meshgrid(np.arange(size[0] // stride), np.arange(size[1] // stride))
        corners.append(np.stack((across.reshape(-1), down.reshape(-1)), axis=1))
        strides.append(np.full((across.size, 1), stride))
    return np.concatenate(corners).astype(np.float32), np.concatenate(strides).astype(np.float32)
