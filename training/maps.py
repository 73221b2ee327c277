"""What a scene's control maps are: known exactly, since the world was painted from it.

Annotators learn to give these of a picture alone, and the control network to draw along them.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fluxserve.engine.annotators import skeleton
from fluxserve.engine.annotators.canny import canny
from training import people, world
from training.world import Pixels, Scene

Floats = NDArray[np.floating[Any]]

WALL = 0.08  # how near a background of one colour is; 0 is far, 1 is near
GROUND_FAR, GROUND_NEAR = 0.1, 0.55  # at the horizon and at the lower edge
HORIZONS = {"grass": 0.45, "sea": 0.4, "snow": 0.55}  # of the height, from above
THING_RIM, THING_MIDDLE = 0.65, 1.0  # things bulge towards us
OUTLINE, INNER, HORIZON_LINE = 1.0, 0.6, 0.35  # how strong soft edges are
SOFTNESS = 1.2  # pixels


def depth(scene: Scene) -> Floats:
    """How near each pixel is, (height, width): 0 what is farthest in the picture, 1 what is nearest."""
    near = _depth_of_background(scene.background, scene.width, scene.height)
    for item in scene.items:
        box = near[item.top : item.top + item.side, item.left : item.left + item.side]
        covered = _coverage(item)
        inside = cv2.distanceTransform((covered > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
        bulge = np.sqrt(np.clip(inside / max(1.0, float(inside.max())), 0, 1))
        box[:] = box * (1 - covered) + (THING_RIM + (THING_MIDDLE - THING_RIM) * bulge) * covered
    least, most = float(near.min()), float(near.max())
    scaled: Floats = (near - least) / max(1e-6, most - least)
    return scaled


def _depth_of_background(name: str, width: int, height: int) -> Floats:
    near = np.full((height, width), WALL, np.float32)
    if name in HORIZONS:
        horizon = round(HORIZONS[name] * height)
        near[:horizon] = 0
        near[horizon:] = np.linspace(GROUND_FAR, GROUND_NEAR, height - horizon, dtype=np.float32)[:, None]
    elif name in world.SCENES:
        near[:] = 0
    return near


def soft_edges(scene: Scene) -> Floats:
    """How much of an edge each pixel is, (height, width) from 0 to 1: outlines most, lines inside things less."""
    edges = np.zeros((scene.height, scene.width), np.float32)
    if scene.background in HORIZONS:
        edges[round(HORIZONS[scene.background] * scene.height) - 1] = HORIZON_LINE
    for item in scene.items:
        box = edges[item.top : item.top + item.side, item.left : item.left + item.side]
        covered = _coverage(item)
        colours = world.sprite_of(item)[..., :3].astype(np.float32) / 255 * covered[..., None]
        inner = max((_steps(colours[..., channel]) for channel in range(3)), key=lambda steps: float(steps.sum()))
        box[:] = np.maximum(box * (1 - covered), np.maximum(OUTLINE * _steps(covered), INNER * inner))
    soft = cv2.GaussianBlur(edges, (0, 0), SOFTNESS)
    strength: Floats = np.clip(1.6 * soft, 0, 1).astype(np.float32)
    return strength


def _steps(values: Floats) -> Floats:
    """How steep values are at each pixel, 0 to 1."""
    padded = cv2.copyMakeBorder(values, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    across, down = (cv2.Sobel(padded, cv2.CV_32F, *axes)[1:-1, 1:-1] / 4 for axes in ((1, 0), (0, 1)))
    steep: Floats = np.clip(2 * np.hypot(across, down), 0, 1)
    return steep


def _coverage(item: world.Placed) -> Floats:
    return world.sprite_of(item)[..., 3].astype(np.float32) / 255


def joints(scene: Scene) -> people.Joints:
    """Those of all its people, (n, 18, 2) in pixels."""
    corners = [
        np.array((item.left, item.top)) + item.side * people.joints(item.figure.pose)
        for item in scene.items
        if item.figure
    ]
    return np.array(corners).reshape(-1, len(skeleton.JOINTS), 2)


def control_map(control: str, scene: Scene) -> Pixels:
    """The map of one control type, (height, width, 3)."""
    match control:
        case "canny":
            return canny(world.paint(scene))
        case "soft_edge":
            return _gray(soft_edges(scene))
        case "depth":
            return _gray(depth(scene))
        case "openpose":
            return skeleton.drawn(joints(scene), (scene.width, scene.height))
        case _:
            raise ValueError(f"no control is called {control!r}")


def _gray(values: Floats) -> Pixels:
    return np.repeat(np.rint(255 * values).astype(np.uint8)[..., None], 3, axis=2)
