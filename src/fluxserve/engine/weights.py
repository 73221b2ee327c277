"""Loads the networks that a catalogue row names, and keeps them as the plan says.

The same code loads the small family that ships with fluxserve and the full FLUX.1. What rows have in common is loaded
once, and stays: the shared parts once for each `shared`. All else comes and goes (`guests`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from diffusers.hooks import apply_group_offloading
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
from fluxserve.engine.flux import Controlling, Flux, ImagePrompt, Own, Shared
from fluxserve.engine.guests import Guests, MakeRoom, let_go
from fluxserve.engine.needs import bytes_in, bytes_of, transformer_at
from fluxserve.engine.network import ControlNetwork, Keeping, ReplayedControl, ReplayedTransformer, Transformer
from fluxserve.engine.plan import TILE, Plan
from fluxserve.engine.sources import Sources
from fluxserve.engine.tuning import Tuning

Network = TypeVar("Network", CLIPTextModel, T5EncoderModel, AutoencoderKL, SiglipVisionModel, ReduxImageEncoder)

# How FLUX.1 goes through its steps, for transformers in a single file, which does not say: schnell, and all others.
SCHEDULES: dict[bool, dict[str, float | bool]] = {
    False: {"shift": 1.0},
    True: {"shift": 3.0, "use_dynamic_shifting": True},
}


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
        self.guests = Guests(device, self.plan.guests)

    @property
    def members(self) -> tuple[str, ...]:
        """Those whose transformers are loaded now."""
        return tuple(sorted(member for member, row in self._rows.items() if row.own in self.guests))

    def load(self, member: str) -> Flux:
        """The networks that a member draws with. Raises `CannotDraw`."""
        row = self._rows[member]
        if row.shared not in self._shared:
            self._shared[row.shared] = self._load_shared(self._sources.path(row.shared))
        own = self.guests.get(row.own, {row.own}, partial(self._load_own, row.own))
        return Flux(row, own, self._shared[row.shared], self.device, self.plan.dtype)

    def load_ahead(self, members: Sequence[str]) -> None:
        """The first of these, and of the others those that fit beside what is loaded."""
        for member in members:
            path = self._sources.path(self._rows[member].own)
            if self.guests.would_fit(bytes_of(Transformer, open_checkpoint(transformer_at(path)).shape, self._keeping)):
                self.load(member)

    def load_for(self, generation: Generation) -> Flux:
        """The networks that a generation is drawn with. Raises `CannotDraw`."""
        flux = self.load(member_of(generation))
        row, needed = flux.row, {flux.row.own}
        if isinstance(generation.kind, Variation) and row.image_prompt:
            needed.add(row.image_prompt)
            read = self.guests.get(row.image_prompt, needed, partial(self._load_image_prompt, row.image_prompt))
            flux = replace(flux, image_prompt=read)
        if generation.control is not None and row.control:
            needed.add(row.control)
            flux = replace(flux, control=self.guests.get(row.control, needed, partial(self._load_control, row.control)))
        if generation.lora is not None:
            self.guests.keep_spare(flux.own.checkpoint, self.plan.dtype)
        return flux

    def shrink(self) -> bool:
        """Let go of everything, and go on with the next smaller plan; False if there is none."""
        if not self._smaller:
            return False
        self.plan, *self._smaller = self._smaller
        self.guests.clear()
        self.guests.room = self.plan.guests
        self._shared.clear()
        let_go(self.device)
        return True

    # ------------------------------------------------------------ from files

    @property
    def _keeping(self) -> Keeping:
        return Keeping(self.device, self.plan.dtype, self.plan.precision, self.plan.modulation == "host")

    def _load_own(self, name: str, make_room: MakeRoom) -> Own:
        path = self._sources.path(name)
        checkpoint = open_checkpoint(transformer_at(path))
        make_room(bytes_of(Transformer, checkpoint.shape, self._keeping))
        transformer = Transformer(checkpoint.shape, self._keeping)
        self._fill(transformer, checkpoint)
        return Own(
            transformer=transformer,
            ask=ReplayedTransformer(transformer) if self.tuning.replays else transformer,
            checkpoint=checkpoint,
            scheduler=_scheduler(path, checkpoint),
        )

    def _load_control(self, name: str, make_room: MakeRoom) -> Controlling:
        checkpoint = open_checkpoint(self._sources.path(name), is_control=True)
        make_room(bytes_of(ControlNetwork, checkpoint.shape, self._keeping))
        control = ControlNetwork(checkpoint.shape, self._keeping)
        self._fill(control, checkpoint)
        return Controlling(control, ReplayedControl(control) if self.tuning.replays else control)

    def _fill(self, network: Transformer | ControlNetwork, checkpoint: Checkpoint) -> None:
        checkpoint.fill(network)
        if self.tuning.compiles:
            network.trunk.compile_blocks()

    def _load_image_prompt(self, name: str, make_room: MakeRoom) -> ImagePrompt:
        path = self._sources.path(name)
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
        if is_apart:
            read_from_host(t5, self.device)
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


def read_from_host(network: torch.nn.Module, device: torch.device) -> None:
    """Have its layers go to the device one after another, each while the one before it works, and back."""
    apply_group_offloading(network, device, offload_type="leaf_level", use_stream=device.type == "cuda")


def work_in_tiles(vae: AutoencoderKL) -> None:
    vae.enable_tiling()
    vae.tile_sample_min_size = math.isqrt(TILE)
    vae.tile_latent_min_size = vae.tile_sample_min_size >> (len(vae.config.block_out_channels) - 1)


def _scheduler(path: Path, checkpoint: Checkpoint) -> FlowMatchEulerDiscreteScheduler:
    if (path / "scheduler").is_dir():
        return FlowMatchEulerDiscreteScheduler.from_pretrained(path, subfolder="scheduler")
    return FlowMatchEulerDiscreteScheduler(**SCHEDULES[checkpoint.shape.takes_guidance])


def device_named(name: str) -> torch.device:
    """The device of that name; "auto" is the first GPU, else Apple's, else the CPU. A GPU has its number."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device("cuda:0" if name == "cuda" else name)
