"""The measures of a FLUX network: how wide, how deep, and what it takes in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

AXES = (16, 56, 56)  # FLUX.1's; a single file does not tell


@dataclass(frozen=True, slots=True)
class Shape:
    """`axes` are the channels of a head that turn with a token's picture, row and column (`rotation`).

    `words_in` and `pooled_in` are the widths of T5's and CLIP's embeddings. `modes` is how many control types a control
    network is told apart; None for one that is told nothing, and for transformers.
    """

    channels_in: int
    channels_out: int
    words_in: int
    pooled_in: int
    heads: int
    head_width: int
    doubles: int
    singles: int
    takes_guidance: bool
    axes: tuple[int, ...] = AXES
    modes: int | None = None

    @property
    def width(self) -> int:
        return self.heads * self.head_width

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> "Shape":
        """That of diffusers' config.json."""
        return cls(
            channels_in=config["in_channels"],
            channels_out=config.get("out_channels") or config["in_channels"],
            words_in=config["joint_attention_dim"],
            pooled_in=config["pooled_projection_dim"],
            heads=config["num_attention_heads"],
            head_width=config["attention_head_dim"],
            doubles=config["num_layers"],
            singles=config["num_single_layers"],
            takes_guidance=config["guidance_embeds"],
            axes=tuple(config["axes_dims_rope"]),
            modes=config.get("num_mode"),
        )
