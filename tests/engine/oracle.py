"""What a picture must be: diffusers' own pipelines over the very same networks."""

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FluxControlNetImg2ImgPipeline,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxPriorReduxPipeline,
    FluxTransformer2DModel,
)
from PIL import Image

from fluxserve.domain.catalog import AnnotatorWeights, drawing_size, reference_size
from fluxserve.domain.generation import Edit, Generation, ImageToImage, Inpaint, Outpaint, TextToImage, Variation
from fluxserve.engine.annotators import Annotators
from fluxserve.engine.canvas import canvas_of, reduced
from fluxserve.engine.flux import Flux
from fluxserve.engine.sources import Sources

# Canny's edges need no network.
ANNOTATORS = Annotators(AnnotatorWeights("", "", ""), Sources(Path()), torch.device("cpu"))


@dataclass(frozen=True)
class Oracle:
    """A pipeline, and what it is asked beside what all are."""

    pipeline: type[DiffusionPipeline]
    more: dict[str, Any] = field(default_factory=dict)


@functools.cache
def transformer_of(folder: Path, dtype: torch.dtype, device: torch.device) -> FluxTransformer2DModel:
    """diffusers' own network over the files that ours was filled from."""
    return FluxTransformer2DModel.from_pretrained(folder, dtype=dtype).to(device)


@functools.cache
def control_of(folder: Path, dtype: torch.dtype, device: torch.device) -> FluxControlNetModel:
    return FluxControlNetModel.from_pretrained(folder, dtype=dtype).to(device)


def pipeline_of(flux: Flux, kind: type[DiffusionPipeline] = FluxPipeline, **more: object) -> DiffusionPipeline:
    pipeline = kind(
        transformer=transformer_of(flux.own.checkpoint.path, flux.dtype, flux.device),
        scheduler=copy.deepcopy(flux.own.scheduler),
        vae=flux.shared.vae,
        text_encoder=flux.shared.clip,
        tokenizer=flux.shared.clip_tokenizer,
        text_encoder_2=flux.shared.t5,
        tokenizer_2=flux.shared.t5_tokenizer,
        **more,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(
    flux: Flux, generation: Generation, output_type: str, images: Mapping[str, bytes] | None = None
) -> torch.Tensor:
    """The first picture: its packed latents ("latent"), or (1, 3, height, width) in 0..1 ("pt")."""
    width, height = drawing_size(flux.row, generation.width, generation.height)
    oracle = _oracle(flux, generation, images or {}, (width, height))
    family = flux.own.checkpoint.path.parents[1]
    networks = {}
    if generation.control:
        networks = {"controlnet": control_of(family / "control", flux.dtype, flux.device)}
    answer: torch.Tensor = pipeline_of(flux, oracle.pipeline, **networks)(
        width=width,
        height=height,
        num_inference_steps=generation.steps,
        guidance_scale=generation.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(generation.seed),
        output_type=output_type,
        **{"prompt": generation.kind.prompt, "max_sequence_length": flux.row.prompt_tokens} | oracle.more,
    ).images
    return answer


def _oracle(flux: Flux, generation: Generation, images: Mapping[str, bytes], size: tuple[int, int]) -> Oracle:
    negative = {
        "negative_prompt": generation.kind.negative_prompt or None,
        "true_cfg_scale": flux.row.negative_guidance,
    }
    control = _control(flux, generation, images, size)
    match generation.kind:
        case TextToImage():
            return Oracle(FluxControlNetPipeline if control else FluxPipeline, negative | control)
        case ImageToImage(image=image, denoising_strength=strength):
            more = {"image": _opened(images[image]), "strength": strength}
            if control:
                return Oracle(FluxControlNetImg2ImgPipeline, more | control)
            return Oracle(FluxImg2ImgPipeline, more | negative)
        case Inpaint() | Outpaint() as kind:
            canvas = reduced(canvas_of(kind, images), *size)
            pictures = {"image": Image.fromarray(canvas.picture), "mask_image": Image.fromarray(canvas.mask)}
            return Oracle(FluxFillPipeline, pictures)
        case Variation(prompt=prompt, image=image):
            return Oracle(FluxPipeline, {"prompt": None, **_image_prompt(flux, prompt, _opened(images[image]))})
        case Edit(image=image):
            picture = _opened(images[image])
            seen = picture.resize(reference_size(flux.row, *picture.size), Image.Resampling.LANCZOS)
            sizes = {"max_area": size[0] * size[1], "_auto_resize": False}
            return Oracle(FluxKontextPipeline, {"image": seen, **sizes} | negative)


def _control(flux: Flux, generation: Generation, images: Mapping[str, bytes], size: tuple[int, int]) -> dict[str, Any]:
    if generation.control is None:
        return {}
    control = generation.control
    return {
        "control_image": Image.fromarray(ANNOTATORS.annotate(control.type, images[control.image], size)),
        "control_mode": flux.row.control_modes[control.type],
        "controlnet_conditioning_scale": control.strength,
    }


def _image_prompt(flux: Flux, prompt: str, image: Image.Image) -> dict[str, Any]:
    """The prior pipeline's answer. It reads prompts at one fixed length, so it is given them read."""
    assert flux.image_prompt is not None
    sequence, pooled, _ = pipeline_of(flux).encode_prompt(prompt, None, max_sequence_length=flux.row.prompt_tokens)
    prior = FluxPriorReduxPipeline(
        image_encoder=flux.image_prompt.encoder,
        feature_extractor=flux.image_prompt.processor,
        image_embedder=flux.image_prompt.embedder,
        text_encoder=flux.shared.clip,
        tokenizer=flux.shared.clip_tokenizer,
        text_encoder_2=flux.shared.t5,
        tokenizer_2=flux.shared.t5_tokenizer,
    )
    answer = prior(image, prompt_embeds=sequence, pooled_prompt_embeds=pooled)
    return {"prompt_embeds": answer.prompt_embeds, "pooled_prompt_embeds": answer.pooled_prompt_embeds}


def _opened(png: bytes) -> Image.Image:
    return Image.open(BytesIO(png))
