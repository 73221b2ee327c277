"""What a picture must be: diffusers' own pipeline over the very same networks."""

import copy
from io import BytesIO

import torch
from diffusers import FluxImg2ImgPipeline, FluxPipeline
from PIL import Image

from fluxserve.domain.catalog import drawing_size
from fluxserve.domain.generation import Generation, ImageToImage
from fluxserve.engine.weights import Flux


def pipeline_of(flux: Flux, kind: type[FluxPipeline] = FluxPipeline) -> FluxPipeline:
    pipeline = kind(
        transformer=flux.own.transformer,
        scheduler=copy.deepcopy(flux.own.scheduler),
        vae=flux.shared.vae,
        text_encoder=flux.shared.clip,
        tokenizer=flux.shared.clip_tokenizer,
        text_encoder_2=flux.shared.t5,
        tokenizer_2=flux.shared.t5_tokenizer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(flux: Flux, generation: Generation, output_type: str, image: bytes = b"") -> torch.Tensor:
    """The first picture: its packed latents ("latent"), or (1, 3, height, width) in 0..1 ("pt").

    `image` is the caller's picture, for kinds that are drawn from one."""
    width, height = drawing_size(flux.row, generation.width, generation.height)
    match generation.kind:
        case ImageToImage(denoising_strength=strength):
            pipeline, more = FluxImg2ImgPipeline, {"image": Image.open(BytesIO(image)), "strength": strength}
        case _:
            pipeline, more = FluxPipeline, {}
    answer: torch.Tensor = pipeline_of(flux, pipeline)(
        prompt=generation.kind.prompt,
        negative_prompt=generation.kind.negative_prompt or None,
        true_cfg_scale=flux.row.negative_guidance,
        width=width,
        height=height,
        num_inference_steps=generation.steps,
        guidance_scale=generation.guidance_scale,
        max_sequence_length=flux.row.prompt_tokens,
        generator=torch.Generator("cpu").manual_seed(generation.seed),
        output_type=output_type,
        **more,
    ).images
    return answer
