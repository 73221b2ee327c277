"""Skeletons: eighteen joints of a body, and the coloured sticks that control networks for poses were taught with.

Joints and colours are those of OpenPose's COCO model (Cao et al., 2019): one hue a joint, once round the colour wheel.
"""

import colorsys

import cv2
import numpy as np
from numpy.typing import NDArray

from fluxserve.engine.png import Pixels

Joints = NDArray[np.float64]

JOINTS = (
    "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
    "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle", "right eye", "left eye",
    "right ear", "left ear",
)  # fmt: skip
# Pairs of joints. A limb has the hue of its number; so has a joint.
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
COLOURS = tuple(
    tuple(round(255 * part) for part in colorsys.hsv_to_rgb(number / len(JOINTS), 1, 1))
    for number in range(len(JOINTS))
)
LIMB_BRIGHTNESS = 0.6  # of its hue; joints have all of it
LEAST_REACH = 4  # pixels: half the width of a limb
REACH_PART = 1 / 128  # of the shorter side


def drawn(people: Joints, size: tuple[int, int]) -> Pixels:
    """The map, (height, width, 3), sticks on black, of `people`, (n, 18, 2) in pixels of a picture of `size` (width,
    height). A joint that is not seen is NaN."""
    width, height = size
    canvas = np.zeros((height, width, 3), np.uint8)
    reach = max(LEAST_REACH, round(min(size) * REACH_PART))
    for person in people:
        for (first, second), colour in zip(LIMBS, COLOURS[: len(LIMBS)], strict=True):
            _draw_limb(canvas, person[first], person[second], reach, colour)
    for person in people:
        for joint, colour in zip(person, COLOURS, strict=True):
            if np.isfinite(joint).all():
                cv2.circle(canvas, _pixel(joint), reach, colour, thickness=cv2.FILLED)
    return canvas


def _draw_limb(canvas: Pixels, first: Joints, second: Joints, reach: int, colour: tuple[int, ...]) -> None:
    """A long ellipse between two joints, if both are seen."""
    along = second - first
    if not np.isfinite(along).all():
        return
    length, angle = float(np.hypot(*along)), float(np.degrees(np.arctan2(along[1], along[0])))
    outline = cv2.ellipse2Poly(_pixel((first + second) / 2), (round(length / 2), reach), round(angle), 0, 360, 1)
    cv2.fillConvexPoly(canvas, np.asarray(outline, np.int32), [round(part * LIMB_BRIGHTNESS) for part in colour])


def _pixel(point: Joints) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))
