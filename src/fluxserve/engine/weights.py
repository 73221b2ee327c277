"""Loads the networks that a catalogue row names, and keeps them.

The same code loads the small family that ships with fluxserve and the full FLUX.1. What rows have in common is loaded
once: the shared parts once for each `shared`, a transformer once for each `own`. It does not choose what to load when,
and it never lets go of what it has loaded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxTransformer2DModel,
)
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    SiglipImageProcessorPil,
    SiglipVisionModel,
    T5EncoderModel,
    T5Tokenizer,
)

from fluxserve.domain.catalog import Weights, member_of
from fluxserve.domain.generation import Generation, Variation
from fluxserve.engine.sources import CannotDraw, path_of

Network = TypeVar(
    "Network",
    CLIPTextModel,
    T5EncoderModel,
    AutoencoderKL,
    FluxTransformer2DModel,
    FluxControlNetModel,
    SiglipVisionModel,
    ReduxImageEncoder,
)
Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Shared:
    """What models have in common: the autoencoder, and the two text encoders with their tokenizers."""

    vae: AutoencoderKL
    clip: CLIPTextModel
    clip_tokenizer: CLIPTokenizer
    t5: T5EncoderModel
    t5_tokenizer: T5Tokenizer


@dataclass(frozen=True, slots=True)
class Own:
    """What makes a member itself. The scheduler is a pattern: every picture is drawn with a copy of it."""

    transformer: FluxTransformer2DModel
    scheduler: FlowMatchEulerDiscreteScheduler


@dataclass(frozen=True, slots=True)
class ImagePrompt:
    """What makes words of a picture: FLUX.1 Redux's image encoder, and the embedder that makes its patches T5's."""

    processor: SiglipImageProcessorPil
    encoder: SiglipVisionModel
    embedder: ReduxImageEncoder


@dataclass(frozen=True, slots=True)
class Flux:
    """Everything one generation is drawn with. `dtype` is that of all its networks."""

    row: Weights
    own: Own
    shared: Shared
    device: torch.device
    dtype: torch.dtype
    image_prompt: ImagePrompt | None = None
    control: FluxControlNetModel | None = None

    @property
    def pixels_per_token(self) -> int:
        """The side of the square of pixels that one image token stands for: 2x2 latents."""
        halvings = len(self.shared.vae.config.block_out_channels) - 1
        return 2 << halvings


class Loader:
    """The members of one family on one device, each loaded at its first use.

    `rows` is the family; `mini_folder` is where the one that ships lies, `weights_folder` where a person's own do.
    """

    def __init__(
        self, rows: Mapping[str, Weights], mini_folder: Path, device: str, weights_folder: Path | None = None
    ) -> None:
        self._rows = rows
        self._mini_folder = mini_folder
        self._weights_folder = weights_folder
        self.device = device_named(device)
        self._dtype = dtype_on(self.device)
        self._own: dict[str, Own] = {}
        self._shared: dict[str, Shared] = {}
        self._image_prompts: dict[str, ImagePrompt] = {}
        self._controls: dict[str, FluxControlNetModel] = {}

    def load(self, member: str) -> Flux:
        """The networks that a member draws with."""
        row = self._rows[member]
        shared = _once(self._shared, row.shared, self._load_shared)
        own = _once(self._own, row.own, self._load_own)
        return Flux(row, own, shared, self.device, self._dtype)

    def load_for(self, generation: Generation) -> Flux:
        """The networks that a generation is drawn with."""
        flux = self.load(member_of(generation))
        if isinstance(generation.kind, Variation) and flux.row.image_prompt:
            flux = replace(
                flux, image_prompt=_once(self._image_prompts, flux.row.image_prompt, self._load_image_prompt)
            )
        if generation.control is not None and flux.row.control:
            flux = replace(flux, control=_once(self._controls, flux.row.control, self._load_control))
        return flux

    def _load_own(self, name: str) -> Own:
        source = self._folder_of(name)
        return Own(
            transformer=self._network(FluxTransformer2DModel, source, "transformer"),
            scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(source, subfolder="scheduler"),
        )

    def _load_shared(self, name: str) -> Shared:
        source = self._folder_of(name)
        vae = self._network(AutoencoderKL, source, "vae")
        vae.to(memory_format=torch.channels_last)  # its convolutions are a tenth faster so, on CPUs and GPUs
        return Shared(
            vae=vae,
            clip=self._network(CLIPTextModel, source, "text_encoder"),
            clip_tokenizer=CLIPTokenizer.from_pretrained(source, subfolder="tokenizer"),
            t5=self._network(T5EncoderModel, source, "text_encoder_2"),
            t5_tokenizer=T5Tokenizer.from_pretrained(source, subfolder="tokenizer_2"),
        )

    def _load_image_prompt(self, name: str) -> ImagePrompt:
        source = self._folder_of(name)
        return ImagePrompt(
            processor=SiglipImageProcessorPil.from_pretrained(source, subfolder="feature_extractor"),
            encoder=self._network(SiglipVisionModel, source, "image_encoder"),
            embedder=self._network(ReduxImageEncoder, source, "image_embedder"),
        )

    def _load_control(self, name: str) -> FluxControlNetModel:
        return self._network(FluxControlNetModel, self._folder_of(name), "")

    def _folder_of(self, name: str) -> Path:
        path = path_of(name, self._mini_folder, self._weights_folder)
        if path.is_file():  # a .safetensors or a .gguf file, in which a transformer lies alone
            raise CannotDraw(f"{name} is a single file here, which is not read yet; a diffusers folder is")
        return path

    def _network(self, kind: type[Network], source: Path, subfolder: str) -> Network:
        # Only safetensors: the other format is pickle, which can run code when it is read.
        network: Network = kind.from_pretrained(source, subfolder=subfolder, dtype=self._dtype, use_safetensors=True)
        network.requires_grad_(False)
        torch.nn.Module.to(network, self.device)
        return network


def device_named(name: str) -> torch.device:
    """The device of that name; "auto" is the first GPU, else Apple's, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda:0")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def dtype_on(device: torch.device) -> torch.dtype:
    """bfloat16, as FLUX.1 was published; float32 on CPUs, not all of which are quick at anything less."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def _once(kept: dict[str, Part], name: str, load: Callable[[str], Part]) -> Part:
    if name not in kept:
        kept[name] = load(name)
    return kept[name]
