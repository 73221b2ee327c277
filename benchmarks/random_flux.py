"""FLUX with random weights at true shapes, or at small ones: what takes its time does not depend on the values.

Both sides of `flux_full` draw with the same numbers: diffusers' networks are made first, and ours are filled from them.
Text is read by the tokenizers that ship with fluxserve, padded to FLUX.1's length.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxControlNetModel, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from fluxserve.domain.catalog import FAMILIES, AnnotatorWeights
from fluxserve.domain.generation import Generation
from fluxserve.engine.annotators import Annotators
from fluxserve.engine.checkpoint import Checkpoint, SafeTensors
from fluxserve.engine.engine import Engine
from fluxserve.engine.flux import Controlling, Flux, Own, Shared
from fluxserve.engine.loras import Loras
from fluxserve.engine.network import (
    ControlNetwork,
    Keeping,
    Precision,
    ReplayedControl,
    ReplayedTransformer,
    Shape,
    Transformer,
)
from fluxserve.engine.plan import Plan
from fluxserve.engine.sources import Sources
from fluxserve.engine.tuning import Tuning
from fluxserve.engine.weights import SCHEDULES, Loader, read_from_host, work_in_tiles

SPREAD = 0.02  # of the weights: as networks of this kind begin
FILL_CHANNELS = 384
Network = TypeVar("Network", bound=torch.nn.Module)


@dataclass(frozen=True, slots=True)
class Size:
    """What the networks are made with. `scale` is that of the pictures."""

    transformer: Mapping[str, Any]
    control: Mapping[str, Any]
    t5: Mapping[str, Any]
    clip: Mapping[str, Any]
    vae: tuple[int, ...]
    scale: float = 1.0


SIZES = {
    "full": Size(
        transformer={},  # diffusers' defaults are FLUX.1's
        control={"num_layers": 6, "num_single_layers": 0, "guidance_embeds": True},
        t5={"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64},
        clip={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        vae=(128, 256, 512, 512),
    ),
    # As wide as FLUX.1, with a tenth of its blocks: how far fewer bits are off can be seen on a CPU.
    "wide": Size(
        transformer={"num_layers": 2, "num_single_layers": 4},
        control={"num_layers": 1, "num_single_layers": 0, "guidance_embeds": True},
        t5={"d_model": 4096, "d_kv": 64, "d_ff": 128, "num_layers": 1, "num_heads": 2},
        clip={"hidden_size": 768, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 12},
        vae=(32, 32, 64, 64),
        scale=1 / 4,
    ),
    "small": Size(
        transformer={
            "num_layers": 2, "num_single_layers": 4, "attention_head_dim": 32, "num_attention_heads": 4,
            "joint_attention_dim": 64, "pooled_projection_dim": 64, "axes_dims_rope": (8, 12, 12),
        },
        control={
            "num_layers": 1, "num_single_layers": 0, "attention_head_dim": 32, "num_attention_heads": 4,
            "joint_attention_dim": 64, "pooled_projection_dim": 64, "axes_dims_rope": (8, 12, 12),
            "guidance_embeds": True,
        },
        t5={"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
        clip={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
        vae=(32, 32, 64, 64),
        scale=1 / 8,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class World:
    """One size of everything, on one device and in one type. What it makes is random, and the same each time; or it
    has whatever numbers were in memory, which takes no time, where only room is asked for."""

    size: Size
    tokenizers: Path
    device: torch.device
    dtype: torch.dtype
    is_random: bool = True

    def transformer(self, member: str) -> FluxTransformer2DModel:
        more: dict[str, Any] = {"guidance_embeds": member != "schnell"}
        if member == "fill":
            more |= {"in_channels": FILL_CHANNELS, "out_channels": 64}
        return self._made(functools.partial(FluxTransformer2DModel, **{**self.size.transformer, **more}))

    def control(self) -> FluxControlNetModel:
        return self._made(functools.partial(FluxControlNetModel, **self.size.control))

    def t5(self) -> T5EncoderModel:
        config = T5Config(feed_forward_proj="gated-gelu", vocab_size=32128, **self.size.t5)
        return self._made(functools.partial(T5EncoderModel, config))

    def shared(self, t5: T5EncoderModel | None = None) -> Shared:
        """With that encoder, or one of its own."""
        clip_tokenizer = CLIPTokenizer.from_pretrained(self.tokenizers, subfolder="tokenizer")
        clip = CLIPTextConfig(
            vocab_size=49408, bos_token_id=clip_tokenizer.bos_token_id, eos_token_id=clip_tokenizer.eos_token_id,
            pad_token_id=clip_tokenizer.pad_token_id, **self.size.clip,
        )  # fmt: skip
        vae = self._made(functools.partial(
            AutoencoderKL, block_out_channels=self.size.vae, down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=16, norm_num_groups=32,
            scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
        ))  # fmt: skip
        vae.to(memory_format=torch.channels_last)
        return Shared(
            vae=vae,
            clip=self._made(functools.partial(CLIPTextModel, clip)),
            clip_tokenizer=clip_tokenizer,
            t5=t5 or self.t5(),
            t5_tokenizer=T5Tokenizer.from_pretrained(self.tokenizers, subfolder="tokenizer_2"),
        )

    def _made(self, make: "functools.partial[Network]") -> Network:
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with torch.device("meta"):
                network = make()
        finally:
            torch.set_default_dtype(before)
        network.to_empty(device=self.device)
        if self.is_random:
            self._fill(network)
        for name, held in network.named_buffers():
            if name.endswith("position_ids"):
                held.copy_(torch.arange(held.shape[-1]))
        return network.eval().requires_grad_(False)

    @torch.no_grad()
    def _fill(self, network: torch.nn.Module) -> None:
        generator = torch.Generator(self.device).manual_seed(0)
        for name, weight in network.named_parameters():
            if weight.ndim == 1 and name.endswith("weight"):
                weight.fill_(1)  # a norm's gain
            else:
                weight.normal_(0, SPREAD, generator=generator)


def scheduler_of(member: str) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**SCHEDULES[member != "schnell"])


def checkpoint_of(network: FluxTransformer2DModel | FluxControlNetModel) -> Checkpoint:
    """What ours are filled from: the very tensors of diffusers' network."""
    is_control = isinstance(network, FluxControlNetModel)
    shape = Shape.of_config(network.config)
    return Checkpoint(Path("random"), SafeTensors(network.state_dict()), shape, is_control=is_control, are_makers=False)


class Ready(Loader):
    """A loader whose one member is there already, and answers for whichever is asked."""

    def __init__(self, flux: Flux, tuning: Tuning) -> None:
        super().__init__({}, Sources(Path()), flux.device, [Plan(flux.dtype)], tuning)
        self._flux = flux

    def load_for(self, _generation: Generation) -> Flux:
        return self._flux


def ours(member: str, theirs: FluxTransformer2DModel, shared: Shared, precision: Precision, tuning: Tuning) -> Flux:
    """Our transformer, filled from diffusers' and kept so."""
    keeping = Keeping(shared.vae.device, shared.vae.dtype, precision)
    return _flux(member, checkpoint_of(theirs), shared, keeping, tuning)


def our_control(theirs: FluxControlNetModel, precision: Precision, tuning: Tuning) -> Controlling:
    """Our control network, filled from diffusers' and kept so."""
    checkpoint = checkpoint_of(theirs)
    network = ControlNetwork(checkpoint.shape, Keeping(theirs.device, theirs.dtype, precision))
    checkpoint.fill(network)
    if tuning.compiles:
        network.trunk.compile_blocks()
    return Controlling(network, ReplayedControl(network) if tuning.replays else network)


def engine_of(world: World, member: str, plan: Plan, tuning: Tuning) -> Engine:
    """One that is kept as a plan says, as a loader does it, with whatever numbers."""
    here, host = (replace(world, device=on, is_random=False) for on in (world.device, torch.device("cpu")))
    t5 = None
    if plan.t5 == "host":
        t5 = host.t5()
        read_from_host(t5, world.device)
    shared = here.shared(t5)
    if plan.is_tiled:
        work_in_tiles(shared.vae)
    keeping = Keeping(shared.vae.device, plan.dtype, plan.precision, plan.modulation == "host")
    flux = _flux(member, checkpoint_of(host.transformer(member)), shared, keeping, tuning)
    return around(flux, tuning, Loras(Path))


def around(flux: Flux, tuning: Tuning, loras: Loras) -> Engine:
    """An engine of one member."""
    annotators = Annotators(AnnotatorWeights("", "", ""), Sources(Path()), flux.device)
    return Engine(Ready(flux, tuning), loras, annotators, safety=None)


def _flux(member: str, checkpoint: Checkpoint, shared: Shared, keeping: Keeping, tuning: Tuning) -> Flux:
    transformer = Transformer(checkpoint.shape, keeping)
    checkpoint.fill(transformer)
    if tuning.compiles:
        transformer.trunk.compile_blocks()
    ask = ReplayedTransformer(transformer) if tuning.replays else transformer
    own = Own(transformer, ask, checkpoint, scheduler_of(member))
    # Drawn and shown at the asked size, whatever that is.
    row = replace(FAMILIES["flux1"][member], native_pixels=None, reference_sizes=())
    return Flux(row, own, shared, keeping.device, keeping.dtype)
