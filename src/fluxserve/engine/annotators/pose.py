"""Poses: the joints of everyone in a picture, by RTMPose (Jiang et al., 2023) or DWPose (Yang et al., 2023), drawn as
sticks.

Both say of each joint how likely it lies in each column and in each row (SimCC, Li et al., 2022).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from fluxserve.engine.annotators import skeleton
from fluxserve.engine.annotators.onnx import OnnxNetwork
from fluxserve.engine.annotators.people import Boxes, PeopleDetector
from fluxserve.engine.png import Pixels

MEAN = np.array((123.675, 116.28, 103.53), np.float32)  # of red, green, blue
DEVIATION = np.array((58.395, 57.12, 57.375), np.float32)
DEFAULT_SIZE = (288, 384)
MARGIN = 1.25  # times a detected box: what the network is shown of it
LEAST_SCORE = 0.3
SHOULDERS = (5, 6)  # among COCO's seventeen joints
# COCO's number of each of the skeleton's joints; the neck, which COCO has not, lies between the shoulders.
COCO = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)


class Pose:
    """Without a detector the whole picture is taken for one person's."""

    def __init__(self, network: OnnxNetwork, detector: PeopleDetector | None) -> None:
        self._network = network
        self._detector = detector
        self._size = network.size or DEFAULT_SIZE

    def __call__(self, pixels: Pixels) -> Pixels:
        """The sticks of all people, (height, width, 3)."""
        height, width = pixels.shape[:2]
        return skeleton.drawn(self.joints(pixels), (width, height))

    def joints(self, pixels: Pixels) -> skeleton.Joints:
        """(n, 18, 2) in pixels, NaN where a joint is not seen."""
        height, width = pixels.shape[:2]
        if self._detector is None:
            boxes, margin = np.array([[0.0, 0.0, width, height]]), 1.0
        else:
            boxes, margin = self._detector(pixels), MARGIN
        people = [self._joints_in(pixels, box, margin) for box in boxes]
        return np.array(people).reshape(-1, len(skeleton.JOINTS), 2)

    def _joints_in(self, pixels: Pixels, box: Boxes, margin: float) -> skeleton.Joints:
        to_shown = _window(box, margin, self._size)
        shown = cv2.warpAffine(pixels, to_shown, self._size, flags=cv2.INTER_LINEAR)
        columns, rows = (answer[0] for answer in self._network.run((shown - MEAN) / DEVIATION)[:2])
        # Their bins are finer than pixels.
        found = np.stack(
            (columns.argmax(1) * self._size[0] / columns.shape[1], rows.argmax(1) * self._size[1] / rows.shape[1]), 1
        )
        found[np.minimum(columns.max(1), rows.max(1)) < LEAST_SCORE] = np.nan
        neck = found[list(SHOULDERS)].mean(0)
        ours = np.array([neck if number is None else found[number] for number in COCO])
        back = np.asarray(cv2.invertAffineTransform(to_shown), np.float64)
        joints: skeleton.Joints = ours @ back[:, :2].T + back[:, 2]
        return joints


def _window(box: Boxes, margin: float, size: tuple[int, int]) -> NDArray[np.float64]:
    """The affine map, (2, 3), that brings a box and its margin into the middle of `size` (width, height)."""
    left, top, right, bottom = box
    scale = 1 / (margin * max((right - left) / size[0], (bottom - top) / size[1]))
    middle = np.array((left + right, top + bottom)) / 2
    return np.column_stack((scale * np.eye(2), np.array(size) / 2 - scale * middle))
