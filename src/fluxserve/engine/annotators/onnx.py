"""Networks in ONNX files, which hold no code: what the field publishes annotators as."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class OnnxNetwork:
    """One network of one input, (1, 3, height, width)."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        self._session = onnxruntime.InferenceSession(path, options, providers)
        self._input = self._session.get_inputs()[0]

    @property
    def size(self) -> tuple[int, int] | None:
        """The (width, height) that it takes, None if it takes any."""
        height, width = self._input.shape[2:]
        return (width, height) if isinstance(width, int) and isinstance(height, int) else None

    def run(self, picture: Floats) -> Sequence[Floats]:
        """All its outputs for (height, width, 3) numbers."""
        batch = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32)
        outputs: Sequence[Floats] = self._session.run(None, {self._input.name: batch})
        return outputs
