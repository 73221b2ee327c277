"""The plain script that `benchmarks.start` measures: diffusers' pipeline, and its first picture.

    python -m benchmarks.plain_start dev 25 3.5 --threads 2 --picture first.png

It says when it is loaded and when the picture is written, a line each.
"""

import argparse
from pathlib import Path

from benchmarks import plain
from fluxserve.executors.workers import mini_folder

PROMPT, SEED = "a little red circle", 1
LOADED, DRAWN = "loaded", "drawn"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("member")
    parser.add_argument("steps", type=int)
    parser.add_argument("guidance", type=float)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    chosen = parser.parse_args()
    drawing = plain.pipeline(mini_folder(), chosen.threads, chosen.member)
    print(LOADED, flush=True)
    import torch

    (image,) = drawing(
        prompt=PROMPT,
        width=plain.DRAWING_SIDE,
        height=plain.DRAWING_SIDE,
        num_inference_steps=chosen.steps,
        guidance_scale=chosen.guidance,
        max_sequence_length=plain.PROMPT_TOKENS,
        generator=torch.Generator("cpu").manual_seed(SEED),
    ).images
    image.save(chosen.picture)
    print(DRAWN, flush=True)


if __name__ == "__main__":
    main()
