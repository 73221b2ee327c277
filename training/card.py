"""The model card: what the mini family is and how well it draws, in ``models/mini/README.md``.

The card's words are written once and may be edited there; its two tables, between markers, are replaced at every
measurement. The same scores are kept as data in ``benchmarks/results/mini_scores.json``, which a measurement of one
member changes for that member only.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from training import world
from training.sitting import FAMILY

CARD = FAMILY / "README.md"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "mini_scores.json"

WORDS = """\
# mini: a small trained FLUX

A family of text-to-image models with FLUX's own classes (`FluxTransformer2DModel`, `AutoencoderKL`, `CLIPTextModel`,
`T5EncoderModel`) and pipelines, small enough to ship with a server and to draw on a CPU in seconds. It exists so that
fluxserve can be tried, tested and trusted without tens of gigabytes of weights.

| part | what | folder |
| --- | --- | --- |
| shared | VAE (16 pixels a latent, 32 channels), CLIP and T5 encoders, their tokenizers | `shared/` |
| schnell | 4 steps, no guidance | `schnell/` |
| dev | 25 steps, guidance built in, 1.5 to 5 | `dev/` |
| fill | draws what is missing in a picture, or continues it beyond its edges; 25 steps | `fill/` |
| edit | changes a picture as it is told: a thing, its colour, what is behind it; 28 steps | `edit/` |
| variation | shows dev a picture in the place of words: it draws another of the same | `variation/` |
| control | one network that has dev follow sharp edges, soft edges, depth or poses | `control/` |
| LoRAs | 23 styles over dev, rank 8 | `loras/` |
| annotators | see soft edges, depth and poses in a picture (ONNX, and a small Depth Anything) | `annotators/` |

Native size 256x256. Weights are bfloat16 safetensors, two annotators float32 ONNX; each file has at most 16 MB, all
safetensors together at most 72 MB.

## How it was made

By the programs in `training/`, from random weights and from pictures and captions that `training/world.py` and
`training/captions.py` invent without end. The things are glyphs of the Noto Color Emoji font (SIL Open Font License
1.1), rendered by our program; shapes, backgrounds and the masked hero are drawn by it. No photograph, no scraped
picture and no other model's weights or outputs were used. The models are not derived from Black Forest Labs' weights
and not made or endorsed by them; they share the architecture.

1. the autoencoder, started as the best linear one;
2. the text encoders, taught to name what a caption says;
3. a base rectified flow on the latents;
4. dev, by guidance distillation of the base; schnell, by progressive distillation of dev;
5. fill, from the base: it learned on, shown each scene with a hole, and then learned guidance as dev had;
6. edit, from the base: it learned on, shown each scene as it was before a change and told the change, or the caption
   of what it ends in; then guidance, as dev had;
7. variation, a small SigLIP with Redux's embedder: it learned to say of a picture what T5 says of its caption;
8. the annotators, from scenes whose edges, depth and joints are known; control, beside dev, from the same maps;
9. the LoRAs, over dev, each from scenes that a picture operation of its own has changed (`training/styles.py`). They
   have the names of the catalogue's LoRAs and are in their spirit; they imitate no one's pictures.

One in ten combinations of things and background is held out from all of it; the scores are measured on those.

    python -m training.all        # everything, in order: hours on a CPU, minutes on a GPU
    python -m training.evaluate   # the scores below

Every stage resumes from its checkpoint; `python -m training.vae --minutes 60` adds an hour to one of them.

## What it draws

<!-- world -->
<!-- /world -->

People, who stand, wave, cheer, walk, run or dance, in clothes of any of the colours: "a person waving in red".

Sizes: little, medium (unsaid), big. Places: left, right, top, bottom, or the centre (unsaid). Two or three of the same.

## What it cannot do

- Draw anything else. Words it was not taught are ignored; they never fail.
- Draw photographs, letters, or a thing in other colours than its glyph's.
- Draw two different things at once, most times, though it was shown some: of "a cat to the left of a tree" it makes two
  cats.
- Keep hands where a pose has them: arms and legs follow it, hands go astray. Of edges it follows those of things better
  than outlines of shapes.
- Always edit as it is told: backgrounds change and things go as asked; a new colour is often another than the one asked
  for, above all where the old one is named too, and a new thing is often neither the old nor the new, above all at the
  top or bottom.
- Say in a variation which colour is the shape's and which the background's.
- Hide where a fill begins: its tone is a little off; and what goes through the edge of a picture is not continued.
- Keep a face in every style: neon, stripes and mosaics cost it its features.
- Join ideas as a large model does: it knows one world of flat pictures.
- Say anything about FLUX.1's quality: it has a thousandth of its weights.

## Scores

Held-out prompts, each with its own seed, drawn at 256x256 through diffusers' `FluxPipeline` in float32 (schnell: 4
steps; dev: 25 steps, guidance 3.5). The judge is no network: it compares with rendered references of every item,
colour, size, place and background. A picture whose detail is not at least half that of its best match is out of focus:
then neither thing, colour, place nor size counts as right.

<!-- scores -->
<!-- /scores -->
"""


@dataclass(frozen=True)
class Score:
    """One measure of one member: percent or decibels; `bound` is what it must reach, if anything."""

    measure: str
    unit: str
    bound: float | None
    score: float

    @property
    def missing(self) -> float:
        """By how much the bound is missed; 0 when it is reached."""
        return max(0.0, self.bound - self.score) if self.bound is not None else 0.0


@dataclass(frozen=True)
class Record:
    """The scores of one member, and how and where they were measured."""

    member: str
    command: str
    machine: dict[str, str]
    scores: tuple[Score, ...]


def publish(fresh: list[Record]) -> None:
    """Put fresh records in the place of older ones of the same members, in the results file and in the card."""
    records = {record.member: record for record in (*_published(), *fresh)}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps([asdict(record) for record in records.values()], indent=2) + "\n")
    text = CARD.read_text() if CARD.exists() else WORDS
    text = _between(text, "world", _what_it_draws())
    text = _between(text, "scores", table(list(records.values())) + "\n\n" + _measured_with(list(records.values())))
    CARD.parent.mkdir(parents=True, exist_ok=True)
    CARD.write_text(text)


def table(records: list[Record]) -> str:
    """The scores as a markdown table."""
    rows = ["| member | measure | must reach | score | missed by |", "| --- | --- | --- | --- | --- |"]
    for record in records:
        for score in record.scores:
            bound = "—" if score.bound is None else f"{score.bound:g} {score.unit}"
            missed = f"{score.missing:.1f} {score.unit}" if score.missing else "—"
            cells = (record.member, score.measure, bound, f"{score.score:.1f} {score.unit}", missed)
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _published() -> list[Record]:
    if not RESULTS.exists():
        return []
    kept = json.loads(RESULTS.read_text())
    return [Record(**{**record, "scores": tuple(Score(**score) for score in record["scores"])}) for record in kept]


def _between(text: str, name: str, inner: str) -> str:
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    if opening not in text or closing not in text:
        raise ValueError(f"{CARD} must hold the markers {opening} and {closing}")
    before, rest = text.split(opening, 1)
    return f"{before}{opening}\n\n{inner}\n\n{closing}{rest.split(closing, 1)[1]}"


def _what_it_draws() -> str:
    things = ", ".join(" / ".join(thing.names) for thing in world.THINGS)
    scenes = [name for name in world.BACKGROUNDS if name not in world.COLOURS]
    return "\n".join(
        (
            f"- {len(world.THINGS)} things: {things};",
            f"- shapes: {', '.join(world.SHAPES)}, in any colour;",
            f"- backgrounds: {', '.join(world.COLOURS)}, and {', '.join(scenes)}.",
        )
    )


def _measured_with(records: list[Record]) -> str:
    lines = []
    for record in records:
        machine = ", ".join(f"{part} {name}" for part, name in record.machine.items())
        lines.append(f"- {record.member}: `{record.command}` ({machine})")
    return "\n".join(lines)
