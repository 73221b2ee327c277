"""Where each layer of a checkpoint has its place in our networks.

Checkpoints name their layers as diffusers does, or as FLUX's makers do. Ours lie together as the makers' do, so that a
layer of diffusers' may be some rows of one of ours. A LoRA, too, names the layers that it adds to as diffusers does.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fluxserve.engine.network.blocks import PERCEPTRON
from fluxserve.engine.network.shape import Shape


@dataclass(frozen=True, slots=True)
class Part:
    """A layer of diffusers' by its `name`, and where it lies: from row `first` of ours at `path` on.

    `makers` is what the makers call the layer that it is in, there from row `makers_first` on; None if they have none.
    """

    name: str
    path: str
    rows: int
    first: int = 0
    makers: str | None = None
    makers_first: int = 0


def parts(shape: Shape, *, is_control: bool) -> Iterator[Part]:
    """Of all linear layers of a network."""
    width = shape.width
    yield Part("x_embedder", "trunk.image_in", width, makers="img_in")
    yield Part("context_embedder", "trunk.words_in", width, makers="txt_in")
    conditions = [("time", "timestep", "time_in"), ("meaning", "text", "vector_in")]
    if shape.takes_guidance:
        conditions.append(("guidance", "guidance", "guidance_in"))
    for ours, theirs, makers in conditions:
        for half, number, layer in (("first", 1, "in_layer"), ("second", 2, "out_layer")):
            name = f"time_text_embed.{theirs}_embedder.linear_{number}"
            yield Part(name, f"trunk.conditioning.{ours}.{half}", width, makers=f"{makers}.{layer}")
    yield from _modulations(shape, is_control)
    for number in range(shape.doubles):
        yield from _double(number, width)
    for number in range(shape.singles):
        yield from _single(number, width)
    if is_control:
        yield Part("controlnet_x_embedder", "map_in", width)
        for number in range(shape.doubles):
            yield Part(f"controlnet_blocks.{number}", f"after_doubles.{number}", width)
        for number in range(shape.singles):
            yield Part(f"controlnet_single_blocks.{number}", f"after_singles.{number}", width)
    else:
        yield Part("proj_out", "image_out", shape.channels_out, makers="final_layer.linear")


@dataclass(frozen=True, slots=True)
class Gain:
    """A norm's gain: diffusers' name, ours, the makers'."""

    name: str
    path: str
    makers: str


def gains(shape: Shape) -> Iterator[Gain]:
    for number in range(shape.doubles):
        ours, theirs, makers = f"trunk.doubles.{number}", f"transformer_blocks.{number}.attn", f"double_blocks.{number}"
        for stream, added, short in (("image", "", "img"), ("words", "added_", "txt")):
            for what, letter in (("query", "q"), ("key", "k")):
                yield Gain(
                    f"{theirs}.norm_{added}{letter}.weight",
                    f"{ours}.{stream}.{what}_norm",
                    f"{makers}.{short}_attn.norm.{what}_norm.scale",
                )
    for number in range(shape.singles):
        for what, letter in (("query", "q"), ("key", "k")):
            yield Gain(
                f"single_transformer_blocks.{number}.attn.norm_{letter}.weight",
                f"trunk.singles.{number}.{what}_norm",
                f"single_blocks.{number}.norm.{what}_norm.scale",
            )


END = "norm_out.linear"
"""The one layer whose halves the makers have the other way round."""


def _modulations(shape: Shape, is_control: bool) -> Iterator[Part]:
    """One after another in one layer."""
    named = []
    for number in range(shape.doubles):
        block, makers = f"transformer_blocks.{number}", f"double_blocks.{number}"
        named += [(f"{block}.norm1.linear", f"{makers}.img_mod.lin", 6)]
        named += [(f"{block}.norm1_context.linear", f"{makers}.txt_mod.lin", 6)]
    for number in range(shape.singles):
        block, makers = f"single_transformer_blocks.{number}", f"single_blocks.{number}"
        named += [(f"{block}.norm.linear", f"{makers}.modulation.lin", 3)]
    if not is_control:
        named += [(END, "final_layer.adaLN_modulation.1", 2)]
    first = 0
    for name, makers, vectors in named:
        yield Part(name, "trunk.modulation", vectors * shape.width, first, makers)
        first += vectors * shape.width


def _double(number: int, width: int) -> Iterator[Part]:
    theirs, makers = f"transformer_blocks.{number}", f"double_blocks.{number}"
    streams = (
        ("image", "to_{}", "to_out.0", "ff", "img"),
        ("words", "add_{}_proj", "to_add_out", "ff_context", "txt"),
    )
    for stream, into, out, perceptron, short in streams:
        ours = f"trunk.doubles.{number}.{stream}"
        for place, letter in enumerate("qkv"):
            name, first = f"{theirs}.attn.{into.format(letter)}", place * width
            yield Part(name, f"{ours}.qkv", width, first, f"{makers}.{short}_attn.qkv", first)
        yield Part(f"{theirs}.attn.{out}", f"{ours}.out", width, makers=f"{makers}.{short}_attn.proj")
        name = f"{theirs}.{perceptron}.net.0.proj"
        yield Part(name, f"{ours}.up", PERCEPTRON * width, makers=f"{makers}.{short}_mlp.0")
        yield Part(f"{theirs}.{perceptron}.net.2", f"{ours}.down", width, makers=f"{makers}.{short}_mlp.2")


def _single(number: int, width: int) -> Iterator[Part]:
    ours, theirs = f"trunk.singles.{number}", f"single_transformer_blocks.{number}"
    makers = f"single_blocks.{number}"
    for place, letter in enumerate("qkv"):
        first = place * width
        yield Part(f"{theirs}.attn.to_{letter}", f"{ours}.into", width, first, f"{makers}.linear1", first)
    yield Part(f"{theirs}.proj_mlp", f"{ours}.into", PERCEPTRON * width, 3 * width, f"{makers}.linear1", 3 * width)
    yield Part(f"{theirs}.proj_out", f"{ours}.out", width, makers=f"{makers}.linear2")
