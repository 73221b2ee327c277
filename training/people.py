"""People of the world: simple figures whose joints are known, which is what the control network for poses learns from.

A figure faces us: its right is at the picture's left. All lengths are parts of the side of its box.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Joints = NDArray[np.float64]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Side:
    """The limbs of one side, in degrees from straight down, positive towards the picture's right."""

    arm: float
    forearm: float
    thigh: float
    shin: float


@dataclass(frozen=True)
class Pose:
    """`body` is in degrees too."""

    body: float
    right: Side
    left: Side


@dataclass(frozen=True)
class Figure:
    """What a person does, and the pose it takes."""

    action: str
    pose: Pose


NECK = (0.5, 0.29)
TRUNK, SHOULDER, HIP = 0.27, 0.095, 0.06  # from neck to hips; from the middle to either side
UPPER_ARM, FOREARM, THIGH, SHIN = 0.14, 0.13, 0.19, 0.18
HEAD, NOSE = 0.085, 0.13  # its radius; how far its middle is above the neck
LIMB, TRUNK_WIDTH = 0.075, 0.15
SKIN, HAIR, TROUSERS = (240, 190, 140), (96, 60, 36), (44, 50, 84)


# ---------------------------------------------------------------- what they do

Turn = tuple[int, int]  # degrees: the usual, and how far from it at most
BESIDE: tuple[Turn, ...] = ((14, 8), (8, 8), (5, 4), (2, 3))  # arm, forearm, thigh and shin of someone who just stands
ACTIONS: dict[str, tuple[Turn, ...]] = {
    "standing": ((0, 4), *((-usual, reach) for usual, reach in BESIDE), *BESIDE),
    "waving": ((0, 4), (-130, 15), (-165, 20), (-5, 4), (-2, 3), *BESIDE),
    "cheering": ((0, 4), (-145, 15), (-165, 15), (-10, 8), (-6, 5), (145, 15), (165, 15), (10, 8), (6, 5)),
    "walking": ((4, 4), (-32, 8), (-15, 12), (-28, 6), (-34, 8), (32, 8), (48, 12), (28, 6), (10, 8)),
    "running": ((-10, 5), (-55, 10), (-130, 15), (-42, 8), (-80, 12), (50, 10), (130, 15), (52, 8), (8, 8)),
    "dancing": ((0, 14), (-95, 60), (-110, 70), (-25, 25), (-10, 30), (95, 60), (110, 70), (25, 25), (10, 30)),
}


def figure(rng: np.random.Generator) -> Figure:
    """Someone who does something, in a pose of whole degrees."""
    action = list(ACTIONS)[rng.integers(len(ACTIONS))]
    body, *limbs = (float(round(usual + rng.uniform(-reach, reach))) for usual, reach in ACTIONS[action])
    return Figure(action, Pose(body, Side(*limbs[:4]), Side(*limbs[4:])))


def from_plain(values: dict[str, Any]) -> Figure:
    """The figure that `dataclasses.asdict` made `values` of."""
    pose = values["pose"]
    return Figure(values["action"], Pose(pose["body"], Side(**pose["right"]), Side(**pose["left"])))


# ---------------------------------------------------------------- joints and pictures


def joints(pose: Pose) -> Joints:
    """(18, 2) in parts of the box, as `fluxserve.engine.annotators.skeleton.JOINTS` names them."""
    neck = np.array(NECK)
    down, across = _towards(pose.body), _towards(pose.body + 90)
    right, left = (_side(neck, down, across, way, side) for way, side in ((-1, pose.right), (1, pose.left)))
    nose = neck - NOSE * down
    eyes = [nose - 0.025 * down + way * 0.03 * across for way in (-1, 1)]
    ears = [nose - 0.01 * down + way * HEAD * across for way in (-1, 1)]
    return np.array([nose, neck, *right[:3], *left[:3], *right[3:], *left[3:], *eyes, *ears])


def _side(neck: Joints, down: Joints, across: Joints, way: int, side: Side) -> list[Joints]:
    """Shoulder, elbow, wrist, hip, knee and ankle of one side."""
    shoulder = neck + way * SHOULDER * across + 0.02 * down
    elbow = shoulder + UPPER_ARM * _towards(side.arm)
    hip = neck + TRUNK * down + way * HIP * across
    knee = hip + THIGH * _towards(side.thigh)
    return [
        shoulder, elbow, elbow + FOREARM * _towards(side.forearm), hip, knee, knee + SHIN * _towards(side.shin)
    ]  # fmt: skip


def _towards(degrees: float) -> Joints:
    turn = np.radians(degrees)
    return np.array([np.sin(turn), np.cos(turn)])


@lru_cache(maxsize=1024)
def sprite(pose: Pose, clothes: Colour, side: int) -> NDArray[np.uint8]:
    """A figure in its box, (side, side, 4) uint8 with straight alpha."""
    big = 4 * side  # drawn four times too large, then reduced: smooth edges
    image = Image.new("RGBA", (big, big))
    pen = ImageDraw.Draw(image)
    (nose, neck, *arms, right_hip, right_knee, right_ankle, left_hip, left_knee, left_ankle) = big * joints(pose)[:14]

    def limb(colour: Colour, width: float, *points: Joints) -> None:
        pen.line([(float(x), float(y)) for x, y in points], (*colour, 255), round(width * big), joint="curve")
        for point in points:
            disc(colour, width / 2, point)

    def disc(colour: Colour, radius: float, middle: Joints) -> None:
        pen.ellipse((*(middle - radius * big), *(middle + radius * big)), (*colour, 255))

    for hip, knee, ankle in ((right_hip, right_knee, right_ankle), (left_hip, left_knee, left_ankle)):
        limb(TROUSERS, LIMB, hip, knee, ankle)
    limb(clothes, TRUNK_WIDTH, neck + 0.06 * (right_hip + left_hip - 2 * neck), (right_hip + left_hip) / 2)
    for shoulder, elbow, wrist in (arms[:3], arms[3:]):
        limb(clothes, LIMB, shoulder, elbow, wrist)
        disc(SKIN, LIMB * 0.6, wrist)
    limb(SKIN, LIMB, neck, nose)
    disc(HAIR, HEAD * 1.1, nose - 0.02 * big * _towards(pose.body))
    disc(SKIN, HEAD * 0.9, nose + 0.012 * big * _towards(pose.body))
    premultiplied = image.convert("RGBa").resize((side, side), Image.Resampling.BOX)
    return np.asarray(premultiplied.convert("RGBA"))
