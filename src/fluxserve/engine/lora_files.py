"""What a LoRA's file holds: two thin matrices for each layer that it adds to.

Files may be laid out as diffusers, Kohya's scripts or XLabs write them; diffusers' own converters bring them into one
layout. Only safetensors are read, and a file's header is looked at before any of it is loaded.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from diffusers.utils import convert_unet_state_dict_to_peft
from safetensors import SafetensorError, safe_open

from fluxserve.engine.checkpoint import Checkpoint
from fluxserve.engine.sources import CannotDraw

MOST_BYTES = 2 << 30
MOST_RANK = 512
ALLOWED_TYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
PREFIX = "transformer."
DOWN, UP, UP_BIAS = ".lora_A.weight", ".lora_B.weight", ".lora_B.bias"


class LoraError(CannotDraw):
    """A LoRA can't be put on; the message says which, and why."""


@dataclass(frozen=True)
class Addition:
    """What a LoRA adds to one linear layer's weight: up @ down * alpha / divisor, at strength 1; and to its bias.

    `down` is (rank, width in), `up` (width out, rank); the divisor is the rank, or its square root where the file says
    so (rsLoRA, Kalajdzievski 2023).
    """

    down: torch.Tensor
    up: torch.Tensor
    bias: torch.Tensor | None
    alpha: float
    divisor: float

    def scale(self, strength: float) -> float:
        return strength * self.alpha / self.divisor

    def weight(self, device: torch.device, strength: float) -> torch.Tensor:
        """What is to be added to the layer's weight, (width out, width in) float32."""
        return (self.up.to(device).float() @ self.down.to(device).float()) * self.scale(strength)


def read(name: str, path: Path, checkpoint: Checkpoint) -> dict[str, Addition]:
    """The additions of a file to the layers of `checkpoint`, by diffusers' names.

    A text encoder's part, if there is one, is left out: prompts are read once for all LoRAs. Raises `LoraError`.
    """
    _check_header(name, path)
    try:
        return _additions(name, path, checkpoint)
    except LoraError:
        raise
    except Exception as error:  # converters meet what nobody thought of with errors of every kind
        raise LoraError(f"LoRA {name}: its file is not as diffusers, Kohya's scripts or XLabs write one") from error


def _additions(name: str, path: Path, checkpoint: Checkpoint) -> dict[str, Addition]:
    weights, alphas, config = (
        _of_the_transformer(part or {})
        for part in FluxPipeline.lora_state_dict(
            str(path), return_alphas=True, return_lora_metadata=True, use_safetensors=True
        )
    )
    if not weights:
        raise LoraError(f"LoRA {name}: nothing in its file is for a FLUX transformer")
    if not any(DOWN in key for key in weights):
        weights = convert_unet_state_dict_to_peft(weights)
    alpha_of = _alphas(alphas, config)
    additions = {}
    for layer in sorted({key.split(".lora_")[0] for key in weights}):
        parts = {end: weights.pop(f"{layer}{end}", None) for end in (DOWN, UP, UP_BIAS)}
        down, up, bias = _fitting(name, layer, parts, checkpoint)
        rank, alpha = len(down), alpha_of(layer)
        divisor = math.sqrt(rank) if config.get("use_rslora") else rank
        additions[layer] = Addition(down, up, bias, rank if alpha is None else float(alpha), divisor)
    if weights:
        raise LoraError(
            f"LoRA {name}: its file holds {min(weights)}, which is no part of a LoRA that can be put on here"
        )
    return additions


def _of_the_transformer(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(PREFIX): value for key, value in values.items() if key.startswith(PREFIX)}


def _fitting(
    name: str, layer: str, parts: Mapping[str, torch.Tensor | None], checkpoint: Checkpoint
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Down, up and up's bias for one layer."""
    down, up, bias = parts[DOWN], parts[UP], parts[UP_BIAS]
    if down is None or up is None:
        raise LoraError(f"LoRA {name}: its file has one half of an addition to {layer}")
    part = checkpoint.parts.get(layer)
    if part is None:
        raise LoraError(f"LoRA {name}: its file does not fit the model, which has no {layer}")
    widths = checkpoint.size(part)
    if down.ndim != 2 or up.ndim != 2 or (up.shape[0], down.shape[1]) != widths or len(down) != up.shape[1]:
        shapes = " and ".join("x".join(map(str, each.shape)) for each in (down, up))
        raise LoraError(f"LoRA {name}: its file does not fit the model: for {layer} it holds {shapes}")
    if bias is not None and bias.shape != up.shape[:1]:
        raise LoraError(f"LoRA {name}: its file does not fit the model: for {layer} it holds a bias of {len(bias)}")
    return down, up, bias


def _alphas(alphas: Mapping[str, Any], config: Mapping[str, Any]) -> Callable[[str], float | None]:
    """A function from a layer's name to its alpha, None where the file does not say: then it is the rank.

    An alpha may stand beside a layer's matrices; a layer without one has the commonest. Or all are in a configuration,
    as peft writes it.
    """
    if alphas:
        of_layer = {key.split(".lora_A.")[0].removesuffix(".alpha"): float(value) for key, value in alphas.items()}
        commonest = Counter(of_layer.values()).most_common(1)[0][0]
        return lambda layer: of_layer.get(layer, commonest)
    patterns: Mapping[str, float] = config.get("alpha_pattern") or {}

    def configured(layer: str) -> float | None:
        fitting = (alpha for pattern, alpha in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", layer))
        return next(fitting, config.get("lora_alpha"))

    return configured


def _check_header(name: str, path: Path) -> None:
    """Look at what a file says of itself before any of it is loaded. Raises `LoraError`."""
    if path.stat().st_size > MOST_BYTES:
        raise LoraError(f"LoRA {name}: its file is larger than {MOST_BYTES} bytes")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            shapes = {key: part.get_shape() for key, part in slices.items()}
            types = {part.get_dtype() for part in slices.values()}
    except (SafetensorError, OSError) as error:
        raise LoraError(f"LoRA {name}: its file is no safetensors file") from error
    if strange := types - set(ALLOWED_TYPES):
        raise LoraError(f"LoRA {name}: its file holds {', '.join(sorted(strange))}; allowed are floating point numbers")
    for key, shape in shapes.items():
        if len(shape) > 2 or (len(shape) == 2 and "lora" in key and min(shape) > MOST_RANK):
            size = "x".join(map(str, shape))
            raise LoraError(f"LoRA {name}: {key} is {size}; allowed is a rank of {MOST_RANK} at most")
