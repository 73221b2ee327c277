"""Tokens, as programs that were written for OpenAI expect them. Pictures are not priced by them; the rule is written
down so that they can be foretold.

Words: a token for every four bytes of UTF-8, rounded up. Pictures that come in: 65, and 129 for each tile of 512x512
once the shorter side has 512 pixels. Pictures that go out: what OpenAI counts for a quality and shape, in proportion to
the area.
"""

import math
from collections.abc import Sequence
from typing import Any

from fluxserve.domain.catalog import Quality

BYTES_A_TOKEN = 4
TILE = 512
BASE, A_TILE = 65, 129
SQUARE = {"low": 272, "medium": 1056, "high": 4160}
TALL = {"low": 408, "medium": 1584, "high": 6240}
WIDE = {"low": 400, "medium": 1568, "high": 6208}
MOST_OUTPUT_TOKENS = TALL["high"]  # of one picture


def usage(
    prompt: str, pictures_in: Sequence[tuple[int, int]], quality: Quality, size: tuple[int, int], count: int
) -> dict[str, Any]:
    words, seen = text_tokens(prompt), sum(input_tokens(*each) for each in pictures_in)
    made = count * output_tokens(quality, *size)
    return {
        "input_tokens": words + seen,
        "output_tokens": made,
        "total_tokens": words + seen + made,
        "input_tokens_details": {"image_tokens": seen, "text_tokens": words},
    }


def text_tokens(text: str) -> int:
    return math.ceil(len(text.encode()) / BYTES_A_TOKEN)


def input_tokens(width: int, height: int) -> int:
    scale = TILE / min(width, height)
    return BASE + A_TILE * math.ceil(width * scale / TILE) * math.ceil(height * scale / TILE)


def output_tokens(quality: Quality, width: int, height: int) -> int:
    if width == height:
        tokens, pixels = SQUARE[quality], 1024 * 1024
    else:
        tokens, pixels = (WIDE if width > height else TALL)[quality], 1536 * 1024
    return math.ceil(tokens * width * height / pixels)
