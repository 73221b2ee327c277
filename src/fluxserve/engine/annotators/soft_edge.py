"""Soft edges: how much of an edge each pixel is, by DexiNed (Poma et al., 2020), after the nets of HED's kind."""

import cv2
import numpy as np

from fluxserve.engine.annotators.onnx import OnnxNetwork
from fluxserve.engine.png import Pixels

MEAN = np.array((103.5, 116.2, 123.6), np.float32)  # of blue, green, red: DexiNed was taught so
GRID = 16  # pixels: sides of what a network of any size is shown


class SoftEdge:
    def __init__(self, network: OnnxNetwork) -> None:
        self._network = network

    def __call__(self, pixels: Pixels) -> Pixels:
        """White where edges are strong, gray where they are weak, (height, width, 3)."""
        height, width = pixels.shape[:2]
        size = self._network.size or tuple(max(GRID, round(side / GRID) * GRID) for side in (width, height))
        shown = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)[..., ::-1] - MEAN
        logits = self._network.run(shown)[-1].squeeze()  # the last output is what all its depths agree upon
        edges = 1 / (1 + np.exp(-logits.astype(np.float64)))
        strength = cv2.resize(edges, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.repeat(np.rint(255 * strength.clip(0, 1)).astype(np.uint8)[..., None], 3, axis=2)
