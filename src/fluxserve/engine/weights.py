"""Loads the networks that a catalogue row names, and keeps them as the plan says.

The same code loads the small family that ships with fluxserve and the full FLUX.1. What rows have in common is loaded
once, and stays: the shared parts once for each `shared`. Transformers, control networks and what reads pictures come at
their first use, stay as long as there is room, and go when another needs it, the one used longest ago first.
"""

import gc
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import cpu_offload
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
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
from fluxserve.engine.checkpoint import Checkpoint, open_checkpoint
from fluxserve.engine.needs import bytes_in, bytes_of, transformer_at
from fluxserve.engine.network import ControlNetwork, Keeping, Replays, Residuals, Told, Transformer
from fluxserve.engine.plan import TILE, Plan
from fluxserve.engine.sources import Sources
from fluxserve.engine.tuning import Tuning

Network = TypeVar("Network", CLIPTextModel, T5EncoderModel, AutoencoderKL, SiglipVisionModel, ReduxImageEncoder)
Part = TypeVar("Part")

# How FLUX.1 goes through its steps, for transformers in a single file, which does not say: schnell, and all others.
SCHEDULES: dict[bool, dict[str, float | bool]] = {
    False: {"shift": 1.0},
    True: {"shift": 3.0, "use_dynamic_shifting": True},
}


@dataclass(frozen=True, slots=True)
class Shared:
    """What models have in common: the autoencoder, and the two text encoders with their tokenizers."""

    vae: AutoencoderKL
    clip: CLIPTextModel
    clip_tokenizer: CLIPTokenizer
    t5: T5EncoderModel
    t5_tokenizer: T5Tokenizer


Ask = Callable[[torch.Tensor, Told, int, Residuals, int], torch.Tensor]
"""A transformer, or what answers for it."""


@dataclass(frozen=True, slots=True)
class Own:
    """What makes a member itself: its transformer, how that is asked, and the checkpoint that it is filled from. The
    scheduler is a pattern: every picture is drawn with a copy of it."""

    transformer: Transformer
    ask: Ask
    checkpoint: Checkpoint
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
    control: ControlNetwork | None = None

    @property
    def pixels_per_token(self) -> int:
        """The side of the square of pixels that one image token stands for: 2x2 latents."""
        halvings = len(self.shared.vae.config.block_out_channels) - 1
        return 2 << halvings


@dataclass(frozen=True, slots=True)
class Guest:
    """What comes and goes, and how many bytes it takes."""

    part: Any
    size: int


class Loader:
    """The members of one family on one device, each loaded at its first use.

    `rows` is the family. `plans` are ways to keep it, each smaller than the one before: it begins with the first.
    """

    def __init__(
        self,
        rows: Mapping[str, Weights],
        sources: Sources,
        device: torch.device,
        plans: Sequence[Plan],
        tuning: Tuning | None = None,
    ) -> None:
        self._rows = rows
        self._sources = sources
        self.device = device
        self.tuning = tuning or Tuning()
        self.plan, *self._smaller = plans
        self._shared: dict[str, Shared] = {}
        self._guests: OrderedDict[str, Guest] = OrderedDict()
        self._spare: Checkpoint | None = None
        self._spare_bytes = 0

    @property
    def members(self) -> tuple[str, ...]:
        """Those whose transformers are loaded now."""
        return tuple(sorted(member for member, row in self._rows.items() if row.own in self._guests))

    def load(self, member: str) -> Flux:
        """The networks that a member draws with. Raises `CannotDraw`."""
        row = self._rows[member]
        if row.shared not in self._shared:
            self._shared[row.shared] = self._load_shared(self._sources.path(row.shared))
        own = self._guest(row.own, {row.own}, self._load_own)
        return Flux(row, own, self._shared[row.shared], self.device, self.plan.dtype)

    def load_ahead(self, members: Sequence[str]) -> None:
        """The first of these, and of the others those that fit beside what is loaded."""
        for member in members:
            path = self._sources.path(self._rows[member].own)
            size = bytes_of(Transformer, open_checkpoint(transformer_at(path)).shape, self._keeping)
            if not self._guests or self._taken + size <= self.plan.guests:
                self.load(member)

    def load_for(self, generation: Generation) -> Flux:
        """The networks that a generation is drawn with. Raises `CannotDraw`."""
        flux = self.load(member_of(generation))
        row, needed = flux.row, {flux.row.own}
        if isinstance(generation.kind, Variation) and row.image_prompt:
            needed.add(row.image_prompt)
            flux = replace(flux, image_prompt=self._guest(row.image_prompt, needed, self._load_image_prompt))
        if generation.control is not None and row.control:
            flux = replace(flux, control=self._guest(row.control, {*needed, row.control}, self._load_control))
        if generation.lora is not None:
            self._spare_from(flux.own.checkpoint)
        return flux

    def shrink(self) -> bool:
        """Let go of everything, and go on with the next smaller plan; False if there is none."""
        if not self._smaller:
            return False
        self.plan, *self._smaller = self._smaller
        self._set_spare(None)
        self._guests.clear()
        self._shared.clear()
        self._let_go()
        return True

    def _guest(self, name: str, needed: set[str], load: Callable[[Path, Callable[[int], None]], Part]) -> Part:
        """What is loaded under that name, loaded if need be; `load` says how many bytes it takes before it takes them.
        What is `needed` beside it stays."""
        if name not in self._guests:
            size = 0

            def make_room(wanted: int) -> None:
                nonlocal size
                size = wanted
                self._make_room(size, needed)

            self._guests[name] = Guest(load(self._sources.path(name), make_room), size)
        self._guests.move_to_end(name)
        part: Part = self._guests[name].part
        return part

    def _make_room(self, size: int, needed: set[str]) -> None:
        """Let guests go until another of `size` bytes has room, or only those are left that are `needed`."""
        if self._taken + size <= self.plan.guests:
            return
        self._set_spare(None)
        for name in [name for name in self._guests if name not in needed]:
            if self._taken + size <= self.plan.guests:
                break
            del self._guests[name]
        self._let_go()

    @property
    def _taken(self) -> int:
        return sum(guest.size for guest in self._guests.values()) + self._spare_bytes

    def _let_go(self) -> None:
        """What nobody has any more: compiled networks refer to themselves, so that only the collector frees them."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    # ------------------------------------------------------------ a second copy, for LoRAs

    def _spare_from(self, checkpoint: Checkpoint) -> None:
        """Keep a member's weights as they came on the device too, if there is room: from there a LoRA is put on in
        milliseconds, from the host's memory in a second or more. On a CPU they are there already."""
        if self.device.type == "cpu" or checkpoint is self._spare:
            return
        size = bytes_of(Transformer, checkpoint.shape, Keeping(self.device, self.plan.dtype))
        if self._taken - self._spare_bytes + size <= self.plan.guests:
            self._set_spare(checkpoint)
            checkpoint.keep_on(self.device, self.plan.dtype)
            self._spare_bytes = size

    def _set_spare(self, checkpoint: Checkpoint | None) -> None:
        if self._spare is not None:
            self._spare.forget()
        self._spare, self._spare_bytes = checkpoint, 0

    # ------------------------------------------------------------ from files

    @property
    def _keeping(self) -> Keeping:
        return Keeping(self.device, self.plan.dtype, self.plan.precision, self.plan.modulation == "host")

    def _load_own(self, path: Path, make_room: Callable[[int], None]) -> Own:
        checkpoint = open_checkpoint(transformer_at(path))
        make_room(bytes_of(Transformer, checkpoint.shape, self._keeping))
        transformer = Transformer(checkpoint.shape, self._keeping)
        self._fill(transformer, checkpoint)
        return Own(
            transformer=transformer,
            ask=Replays(transformer) if self.tuning.replays else transformer,
            checkpoint=checkpoint,
            scheduler=_scheduler(path, checkpoint),
        )

    def _load_control(self, path: Path, make_room: Callable[[int], None]) -> ControlNetwork:
        checkpoint = open_checkpoint(path, is_control=True)
        make_room(bytes_of(ControlNetwork, checkpoint.shape, self._keeping))
        control = ControlNetwork(checkpoint.shape, self._keeping)
        self._fill(control, checkpoint)
        return control

    def _fill(self, network: Transformer | ControlNetwork, checkpoint: Checkpoint) -> None:
        checkpoint.fill(network)
        if self.tuning.compiles:
            network.trunk.compile_blocks()

    def _load_image_prompt(self, path: Path, make_room: Callable[[int], None]) -> ImagePrompt:
        make_room(bytes_in(path) * self.plan.dtype.itemsize // 2)
        return ImagePrompt(
            processor=SiglipImageProcessorPil.from_pretrained(path, subfolder="feature_extractor"),
            encoder=self._network(SiglipVisionModel, path, "image_encoder", self.device),
            embedder=self._network(ReduxImageEncoder, path, "image_embedder", self.device),
        )

    def _load_shared(self, path: Path) -> Shared:
        vae = self._network(AutoencoderKL, path, "vae", self.device)
        vae.to(memory_format=torch.channels_last)  # its convolutions are a tenth faster so, on CPUs and GPUs
        if self.plan.is_tiled:
            work_in_tiles(vae)
        is_apart = self.plan.t5 == "host"
        t5 = self._network(T5EncoderModel, path, "text_encoder_2", torch.device("cpu") if is_apart else self.device)
        if is_apart:  # its layers go to the device one after another, and back
            cpu_offload(t5, execution_device=self.device)
        return Shared(
            vae=vae,
            clip=self._network(CLIPTextModel, path, "text_encoder", self.device),
            clip_tokenizer=CLIPTokenizer.from_pretrained(path, subfolder="tokenizer"),
            t5=t5,
            t5_tokenizer=T5Tokenizer.from_pretrained(path, subfolder="tokenizer_2"),
        )

    def _network(self, kind: type[Network], path: Path, subfolder: str, device: torch.device) -> Network:
        # Only safetensors: the other format is pickle, which can run code when it is read.
        network: Network = kind.from_pretrained(path, subfolder=subfolder, dtype=self.plan.dtype, use_safetensors=True)
        network.requires_grad_(False)
        torch.nn.Module.to(network, device)
        return network


def work_in_tiles(vae: AutoencoderKL) -> None:
    vae.enable_tiling()
    vae.tile_sample_min_size = math.isqrt(TILE)
    vae.tile_latent_min_size = vae.tile_sample_min_size >> (len(vae.config.block_out_channels) - 1)


def _scheduler(path: Path, checkpoint: Checkpoint) -> FlowMatchEulerDiscreteScheduler:
    if (path / "scheduler").is_dir():
        return FlowMatchEulerDiscreteScheduler.from_pretrained(path, subfolder="scheduler")
    return FlowMatchEulerDiscreteScheduler(**SCHEDULES[checkpoint.shape.takes_guidance])


def device_named(name: str) -> torch.device:
    """The device of that name; "auto" is the first GPU, else Apple's, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda:0")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
