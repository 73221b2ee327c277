"""How much a family's networks take: counted from what their files say of themselves, before any of them is loaded."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from fluxserve.domain.catalog import MOST_PIXELS_DRAWN, Weights
from fluxserve.engine.checkpoint import open_checkpoint
from fluxserve.engine.network import Keeping, Shape, Transformer
from fluxserve.engine.plan import Needs
from fluxserve.engine.sources import folder_of

ENCODERS = ("text_encoder", "text_encoder_2")
BYTES = 2  # of a number in bfloat16
IMAGE_WORDS = 729  # that a picture becomes, where one may join the prompt


def needs_of(rows: Mapping[str, Weights], mini_folder: Path) -> Needs:
    """Of the family's largest transformer, and of what all its members share."""
    folders = {Path(folder_of(row.own, mini_folder)) for row in rows.values()}
    shapes = [open_checkpoint(folder / "transformer").shape for folder in folders]
    weights = max(map(split, shapes), key=sum)
    shared = Path(folder_of(next(iter(rows.values())).shared, mini_folder))
    config = json.loads((shared / "vae" / "config.json").read_text())
    side = 2 << (len(config["block_out_channels"]) - 1)  # of a token, in pixels
    pixels = max(row.native_pixels or MOST_PIXELS_DRAWN for row in rows.values())
    return Needs(
        *weights,
        encoders=sum(_bytes_in(shared / name) for name in ENCODERS),
        autoencoder=_bytes_in(shared / "vae"),
        width=max(shape.width for shape in shapes),
        channels=config["block_out_channels"][0],
        most_tokens=max(_tokens(row, side) for row in rows.values()),
        most_pixels=pixels,
    )


def split(shape: Shape) -> tuple[int, int, int]:
    """Bytes of a transformer in bfloat16: of its large layers, its modulation, the rest of it."""
    network = Transformer(shape, Keeping(torch.device("meta"), torch.bfloat16))
    blocks = (network.trunk.doubles, network.trunk.singles)
    large = sum(weight.numel() for block in blocks for weight in block.parameters() if weight.ndim > 1)
    modulation = network.trunk.modulation.weight.numel()
    whole = sum(weight.numel() for weight in network.parameters())
    return BYTES * large, BYTES * modulation, BYTES * (whole - large - modulation)


def _tokens(row: Weights, side: int) -> int:
    """The most that a member's transformer is shown at once."""
    picture = (row.native_pixels or MOST_PIXELS_DRAWN) // side**2
    reference = max((width * height for width, height in row.reference_sizes), default=0) // side**2
    return picture + reference + row.prompt_tokens + (IMAGE_WORDS if row.image_prompt else 0)


def _bytes_in(folder: Path) -> int:
    return BYTES * sum(_numbers_in(sorted(folder.glob("*.safetensors"))))


def _numbers_in(files: Sequence[Path]) -> list[int]:
    counts = []
    for path in files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                counts.append(torch.Size(file.get_slice(key).get_shape()).numel())
    return counts
