"""Depth: how near each pixel is, by Depth Anything V2 (Yang et al., 2024) or a network of its kind."""

from pathlib import Path

import numpy as np
import torch
from transformers import DepthAnythingForDepthEstimation, DPTImageProcessorPil

from fluxserve.engine.png import Pixels


class Depth:
    """`folder` holds transformers' files."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._processor = DPTImageProcessorPil.from_pretrained(folder)
        self._network = DepthAnythingForDepthEstimation.from_pretrained(folder, use_safetensors=True)
        self._network.requires_grad_(False)
        torch.nn.Module.to(self._network, device)

    @torch.inference_mode()
    def __call__(self, pixels: Pixels) -> Pixels:
        """White where the picture is nearest, black where it is farthest, (height, width, 3)."""
        shown = self._processor(images=pixels, return_tensors="pt")["pixel_values"].to(self._network.device)
        near = self._network(pixel_values=shown).predicted_depth[:, None].float()
        near = torch.nn.functional.interpolate(near, pixels.shape[:2], mode="bicubic", align_corners=False)[0, 0]
        least, most = near.min(), near.max()
        levels = (255 * (near - least) / (most - least).clamp_min(1e-6)).round().byte().cpu().numpy()
        return np.repeat(levels[..., None], 3, axis=2)
