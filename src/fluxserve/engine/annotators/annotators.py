"""All annotators of a family, by the control type that each serves."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from fluxserve.domain.catalog import AnnotatorWeights
from fluxserve.domain.generation import ControlType
from fluxserve.engine.annotators.canny import canny
from fluxserve.engine.annotators.depth import Depth
from fluxserve.engine.annotators.onnx import OnnxNetwork
from fluxserve.engine.annotators.people import PeopleDetector
from fluxserve.engine.annotators.pose import Pose
from fluxserve.engine.annotators.soft_edge import SoftEdge
from fluxserve.engine.kept import Kept
from fluxserve.engine.png import Pixels, decode_png
from fluxserve.engine.sources import Sources

Annotator = Callable[[Pixels], Pixels]

MOST_KEPT = 16  # of 3 MB each, at a megapixel


class Annotators:
    """Those of one family, each loaded at its first use and kept; and the maps made last: pictures come back."""

    def __init__(self, weights: AnnotatorWeights, sources: Sources, device: torch.device) -> None:
        self._weights = weights
        self._sources = sources
        self._device = device
        self._loaded: dict[ControlType, Annotator] = {}
        self._maps: Kept[tuple[ControlType, bytes, tuple[int, int]], Pixels] = Kept(MOST_KEPT)

    def annotate(self, control: ControlType, png: bytes, size: tuple[int, int]) -> Pixels:
        """The map of a PNG file at `size` (width, height), (height, width, 3). Raises `CannotDraw` without its
        network."""
        return self._maps.get((control, png, size), lambda: self._map(control, png, size))

    def _map(self, control: ControlType, png: bytes, size: tuple[int, int]) -> Pixels:
        if control not in self._loaded:
            self._loaded[control] = self._load(control)
        picture = Image.fromarray(decode_png(png)).resize(size, Image.Resampling.LANCZOS)
        return self._loaded[control](np.asarray(picture))

    def _load(self, control: ControlType) -> Annotator:
        match control:
            case "canny":
                return canny
            case "soft_edge":
                return SoftEdge(self._onnx(self._weights.soft_edge))
            case "depth":
                return Depth(self._sources.path(self._weights.depth), self._device)
            case "openpose":
                detector = self._weights.people and PeopleDetector(self._onnx(self._weights.people))
                return Pose(self._onnx(self._weights.openpose), detector or None)

    def _onnx(self, source: str) -> OnnxNetwork:
        return OnnxNetwork(self._sources.file(source))
