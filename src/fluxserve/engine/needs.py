"""How much a family's networks take: counted from what their files say of themselves, before any of them is loaded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open

from fluxserve.domain.catalog import MOST_PIXELS_DRAWN, Weights
from fluxserve.engine.checkpoint import open_checkpoint
from fluxserve.engine.network import ControlNetwork, Keeping, Shape, Transformer
from fluxserve.engine.plan import PROMPTS_KEPT, Needs
from fluxserve.engine.sources import CannotDraw, Sources

BYTES = 2  # of a number in bfloat16

# FLUX.1's at full size, all of its members together, by which a machine can be judged before its weights are there.
FLUX1 = Needs(
    large=17_213_423_616,
    modulation=6_492_782_592,
    other=96_610_432,
    t5=9_524_000_000,
    always=414_000_000,
    prompts=268_000_000,
    width=3072,
    channels=128,
    most_tokens=8192 + 512 + 729,
    most_pixels=MOST_PIXELS_DRAWN,
)


def needs_of(rows: Mapping[str, Weights], sources: Sources) -> Needs:
    """Of those of a family's members that are here: of the largest transformer, and of what all share. Raises
    `CannotDraw` if none is."""
    here = {member: row for member, row in rows.items() if _is_here(row, sources)}
    if not here:
        raise CannotDraw("no member of the family is on this server")
    shapes = [open_checkpoint(transformer_at(sources.path(row.own))).shape for row in here.values()]
    shared = sources.path(next(iter(here.values())).shared)
    config = json.loads((shared / "vae" / "config.json").read_text())
    side = 2 << (len(config["block_out_channels"]) - 1)  # of a token, in pixels
    return Needs(
        *max(map(split, shapes), key=sum),
        t5=bytes_in(shared / "text_encoder_2"),
        always=bytes_in(shared / "text_encoder") + bytes_in(shared / "vae"),
        prompts=max(row.prompt_tokens for row in here.values()) * shapes[0].words_in * BYTES * PROMPTS_KEPT,
        width=max(shape.width for shape in shapes),
        channels=config["block_out_channels"][0],
        most_tokens=max(_tokens(member, row, side, sources) for member, row in here.items()),
        most_pixels=max(row.native_pixels or MOST_PIXELS_DRAWN for row in here.values()),
    )


def split(shape: Shape) -> tuple[int, int, int]:
    """Bytes of a transformer in bfloat16: of its large layers, its modulation, the rest of it."""
    network = Transformer(shape, Keeping(torch.device("meta"), torch.bfloat16))
    blocks = (network.trunk.doubles, network.trunk.singles)
    large = sum(weight.numel() for block in blocks for weight in block.parameters() if weight.ndim > 1)
    modulation = network.trunk.modulation.weight.numel()
    whole = sum(weight.numel() for weight in network.parameters())
    return BYTES * large, BYTES * modulation, BYTES * (whole - large - modulation)


def bytes_of(kind: type[Transformer] | type[ControlNetwork], shape: Shape, keeping: Keeping) -> int:
    """On the device, of a network that is kept so."""
    network = kind(shape, replace(keeping, device=torch.device("meta")))
    whole = sum(weight.numel() * weight.itemsize for weight in network.parameters())
    if keeping.modulates_from_host:
        whole -= sum(weight.numel() * weight.itemsize for weight in network.trunk.modulation.parameters())
    return whole


def bytes_in(folder: Path) -> int:
    """Of all networks in a folder, and in those in it, in bfloat16."""
    return BYTES * sum(_numbers_in(sorted(folder.rglob("*.safetensors"))))


def transformer_at(path: Path) -> Path:
    """Where a member's transformer lies: in a folder of its folder, or it is a file of its own."""
    inner = path / "transformer"
    return inner if inner.is_dir() else path


def _is_here(row: Weights, sources: Sources) -> bool:
    try:
        return sources.path(row.own).exists()
    except CannotDraw:
        return False


def _tokens(member: str, row: Weights, side: int, sources: Sources) -> int:
    """The most that a member's transformer is shown at once."""
    tokens = (row.native_pixels or MOST_PIXELS_DRAWN) // side**2 + row.prompt_tokens
    if row.reference_sizes:
        tokens += max(width * height for width, height in row.reference_sizes) // side**2
    elif member == "edit":
        tokens += (row.native_pixels or MOST_PIXELS_DRAWN) // side**2
    if row.image_prompt:
        tokens += _patches(row.image_prompt, sources)
    return tokens


def _patches(image_prompt: str, sources: Sources) -> int:
    """How many words a picture becomes; none if it is not here."""
    try:
        config = json.loads((sources.path(image_prompt) / "image_encoder" / "config.json").read_text())
    except (CannotDraw, OSError):
        return 0
    patches: int = (config["image_size"] // config["patch_size"]) ** 2
    return patches


def _numbers_in(files: Sequence[Path]) -> list[int]:
    counts = []
    for path in files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                counts.append(torch.Size(file.get_slice(key).get_shape()).numel())
    return counts
