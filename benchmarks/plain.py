"""What a plain script does: diffusers' own pipeline over the weights that ship with fluxserve, then Pillow.

It runs in a process of its own that stays warm between its turns; `draw` is called there.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL = "schnell"
DRAWING_SIDE = 256  # what the small models draw, whatever is asked
PROMPT_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Wanted:
    """One square picture."""

    prompt: str
    seed: int
    side: int
    steps: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """A file, and the seconds from the wish to the file; those of the pipeline's call alone."""

    file: Path
    seconds: float
    pipeline_seconds: float


def draw(weights: Path, threads: int, folder: Path, pictures: Sequence[Wanted]) -> list[Drawn]:
    """One picture after another, each written to `folder`."""
    import torch
    from PIL import Image

    drawing, drawn = pipeline(weights, threads, MODEL), []
    for wanted in pictures:
        began = time.perf_counter()
        (image,) = drawing(
            prompt=wanted.prompt,
            width=DRAWING_SIDE,
            height=DRAWING_SIDE,
            num_inference_steps=wanted.steps,
            max_sequence_length=PROMPT_TOKENS,
            generator=torch.Generator("cpu").manual_seed(wanted.seed),
        ).images
        called = time.perf_counter()
        if image.size != (wanted.side, wanted.side):
            image = image.resize((wanted.side, wanted.side), Image.Resampling.LANCZOS)
        file = folder / f"{wanted.seed}-{wanted.side}.png"
        image.save(file)
        drawn.append(Drawn(file, time.perf_counter() - began, called - began))
    return drawn


@functools.cache
def pipeline(weights: Path, threads: int, member: str) -> Any:
    """A member's, loaded at the first call."""
    import torch
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

    torch.set_num_threads(threads)
    shared, own = weights / "shared", weights / member
    floats = {"torch_dtype": torch.float32, "use_safetensors": True}
    made = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(own, subfolder="scheduler"),
        transformer=FluxTransformer2DModel.from_pretrained(own, subfolder="transformer", **floats),
        vae=AutoencoderKL.from_pretrained(shared, subfolder="vae", **floats),
        text_encoder=CLIPTextModel.from_pretrained(shared, subfolder="text_encoder", dtype=torch.float32),
        tokenizer=CLIPTokenizer.from_pretrained(shared, subfolder="tokenizer"),
        text_encoder_2=T5EncoderModel.from_pretrained(shared, subfolder="text_encoder_2", dtype=torch.float32),
        tokenizer_2=T5Tokenizer.from_pretrained(shared, subfolder="tokenizer_2"),
    )
    made.set_progress_bar_config(disable=True)
    return made
