"""The catalogue: what can be asked for, and where its weights lie.

Two tables. `MODELS` is what callers see: names, limits, defaults. `FAMILIES` says which weights draw them: the
small ones that ship with fluxserve ("mini") or the full ones ("flux1"); the code that loads and runs them is the same.
A family has members, and `member_of` says which of them draws a generation: a model may draw words with one and fill
gaps with another.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from fluxserve.domain.errors import InvalidInput
from fluxserve.domain.generation import ControlType, Edit, Generation, Inpaint, Outpaint, Variation

MOST_PIXELS = 1_048_576
SHORTEST_SIDE = 64
LONGEST_SIDE = 4096
MOST_CANVAS_PIXELS = 16_777_216  # of a picture that is filled, which stays as large as it is
LONGEST_CANVAS_SIDE = 8192
MOST_PIXELS_DRAWN = 2 * MOST_PIXELS  # what is larger is drawn smaller, and resampled


@dataclass(frozen=True, slots=True)
class Model:
    """One model as callers see it.

    `member` of a family draws for it what no other member is made for.
    """

    name: str
    member: str
    default_steps: int
    most_steps: int
    default_guidance: float | None
    least_guidance: float = 1.5
    most_guidance: float = 5.0
    most_pictures: int = 1
    default_side: int = 1024

    def size(self, width: int | None, height: int | None) -> tuple[int, int]:
        """The size asked for; 0 or None stands for the default. Raises `InvalidInput`."""
        sides = {"width": width or self.default_side, "height": height or self.default_side}
        for name, side in sides.items():
            if not SHORTEST_SIDE <= side <= LONGEST_SIDE:
                raise InvalidInput(
                    name, side, f"allowed are {SHORTEST_SIDE} to {LONGEST_SIDE} pixels, 0 for the default"
                )
        if sides["width"] * sides["height"] > MOST_PIXELS:
            raise InvalidInput(
                "width",
                sides["width"],
                f"allowed is a width x height of at most {MOST_PIXELS}, and with a height of {sides['height']} it is "
                f"{sides['width'] * sides['height']}",
            )
        return sides["width"], sides["height"]

    def size_like(self, width: int, height: int) -> tuple[int, int]:
        """The size of a picture that is drawn from one of `width` x `height`: the same, or the largest allowed of its
        shape."""
        scale = min(1.0, (MOST_PIXELS / (width * height)) ** 0.5)
        return max(SHORTEST_SIDE, int(width * scale)), max(SHORTEST_SIDE, int(height * scale))

    def steps(self, asked: int | None) -> int:
        """The steps asked for; 0 or None stands for the default. Raises `InvalidInput`."""
        steps = asked or self.default_steps
        if not 1 <= steps <= self.most_steps:
            raise InvalidInput(
                "steps",
                steps,
                f"{self.name} allows 1 to {self.most_steps}, and 0 for its default, {self.default_steps}",
            )
        return steps

    def guidance(self, asked: float | None, usual: float | None = None) -> float | None:
        """The guidance scale to draw with, None for a model that has none; `usual` is the default where not the model's
        own. Raises `InvalidInput`."""
        if asked is not None and not self.least_guidance <= asked <= self.most_guidance:
            raise InvalidInput(
                "guidance_scale", asked, f"allowed are {self.least_guidance:g} to {self.most_guidance:g}"
            )
        return None if self.default_guidance is None else asked or usual or self.default_guidance


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model("flux1-schnell", "schnell", 4, 10, default_guidance=None, most_pictures=4),
        Model("flux1-dev", "dev", 25, 40, default_guidance=3.5),
        Model("flux1-dev-advanced", "dev", 25, 40, default_guidance=3.5),
    )
}


Quality = Literal["low", "medium", "high"]
PictureKind = tuple[Quality, bool]  # what pictures of OpenAI's are priced by: the quality, and whether it is oblong
PICTURE_KINDS: tuple[PictureKind, ...] = tuple(
    (quality, is_oblong) for quality in get_args(Quality) for is_oblong in (False, True)
)
PRICED_BY_KIND = "gpt-image-1"  # the one model that is


def product_of(model: str, kind: PictureKind) -> str:
    """What a picture of a model of OpenAI's is sold as."""
    quality, is_oblong = kind
    return f"{model} {quality}{' oblong' if is_oblong else ''}" if model == PRICED_BY_KIND else model


@dataclass(frozen=True, slots=True)
class Means:
    """What a quality is drawn with."""

    model: str
    steps: int


def qualities_of(text: str) -> dict[Quality, Means]:
    """From QUALITY=MODEL:STEPS, by commas. Raises `InvalidInput` unless each quality has a model and steps of its."""
    told = dict(part.strip().partition("=")[::2] for part in text.split(","))
    qualities: dict[Quality, Means] = {}
    for quality in get_args(Quality):
        name, _, steps = told.pop(quality, "").partition(":")
        model = MODELS.get(name)
        if model is None or not steps.isdecimal() or not 1 <= int(steps) <= model.most_steps:
            allowed = f"allowed is {quality}=MODEL:STEPS, with one of {', '.join(MODELS)} and steps that it allows"
            raise InvalidInput("image_qualities", text, allowed)
        qualities[quality] = Means(name, int(steps))
    if told:
        raise InvalidInput("image_qualities", text, f"allowed are {', '.join(get_args(Quality))}, and no other")
    return qualities


@dataclass(frozen=True, slots=True)
class Usual:
    """Defaults of an ability where they are not the model's: those that FLUX.1's makers name for it."""

    steps: int | None = None
    guidance_scale: float | None = None


USUAL = {"fill": Usual(guidance_scale=30.0), "edit": Usual(steps=28, guidance_scale=2.5)}
# As the card of FLUX.1's control network advises.
CONTROL_STRENGTHS: dict[ControlType, float] = {"canny": 0.7, "soft_edge": 0.7, "depth": 0.8, "openpose": 0.9}


@dataclass(frozen=True, slots=True)
class Weights:
    """Where the weights of a family's member lie and how they like to be used.

    `own` and `shared` are sources: packages of `domain/weights.py`, or, where they begin with ``mini/``, folders of the
    family that ships with fluxserve. `own` holds the subfolders transformer and scheduler, `shared` the text encoders,
    tokenizers and VAE, one copy for all models that name the same.

    `native_pixels`: the area the member was taught at; larger or smaller pictures are drawn at about this area and
    resampled. None means that it draws any area itself. `side_multiple` is the grid its sides are drawn on, in pixels.
    `prompt_tokens` is T5's fixed length. `most_guidance` is the largest guidance scale that the member was taught: more
    is drawn as this. `negative_guidance` is the true classifier-free guidance scale that a negative prompt switches on.

    `reference_sizes` are those at which an editing member was shown pictures; without any it is shown them at their
    drawing size. `image_prompt` (subfolders image_encoder, feature_extractor, image_embedder) and `control` (a control
    network) are further sources, for members that have them. `control_modes` numbers the control types for a
    network that is told which it follows.
    """

    own: str
    shared: str
    prompt_tokens: int
    side_multiple: int = 16
    native_pixels: int | None = None
    most_guidance: float = math.inf
    negative_guidance: float = 2.0
    reference_sizes: tuple[tuple[int, int], ...] = ()
    image_prompt: str | None = None
    control: str | None = None
    control_modes: Mapping[ControlType, int] = field(default_factory=dict)


def _mini(member: str) -> Weights:
    return Weights(
        f"mini/{member}",
        "mini/shared",
        prompt_tokens=24,
        side_multiple=32,
        native_pixels=256 * 256,
        most_guidance=5.0,
    )


def _flux1(name: str, prompt_tokens: int) -> Weights:
    return Weights(f"flux1-{name}", "flux1-encoders", prompt_tokens)


# The sizes, near one megapixel, that FLUX.1 Kontext was taught with: as its pipeline in diffusers names them.
_TALL = ((672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104))
KONTEXT_SIZES = (*_TALL, (1024, 1024), *((height, width) for width, height in reversed(_TALL)))

FAMILIES: dict[str, dict[str, Weights]] = {
    "mini": {
        "schnell": _mini("schnell"),
        "dev": replace(
            _mini("dev"),
            image_prompt="mini/variation",
            control="mini/control",
            control_modes={"canny": 0, "soft_edge": 1, "depth": 2, "openpose": 3},
        ),
        "fill": _mini("fill"),
        "edit": _mini("edit"),
    },
    "flux1": {
        "schnell": _flux1("schnell", 256),
        "dev": replace(
            _flux1("dev", 512),
            image_prompt="flux1-redux-dev",
            control="flux1-controlnet",  # tells the types apart by itself
        ),
        "fill": _flux1("fill-dev", 512),
        "edit": replace(_flux1("kontext-dev", 512), native_pixels=MOST_PIXELS, reference_sizes=KONTEXT_SIZES),
    },
}


@dataclass(frozen=True, slots=True)
class AnnotatorWeights:
    """Where a family's annotators lie: networks that see the control map of a picture.

    `depth` is a source of transformers' files, the others are ONNX files; one of a package has its name before it.
    `people` finds the people whose poses are asked for; None takes a whole picture for one person's.
    """

    soft_edge: str
    depth: str
    openpose: str
    people: str | None = None


ANNOTATORS: dict[str, AnnotatorWeights] = {
    "mini": AnnotatorWeights("mini/annotators/soft_edge.onnx", "mini/annotators/depth", "mini/annotators/pose.onnx"),
    "flux1": AnnotatorWeights(
        soft_edge="annotator-soft-edge/edge_detection_dexined_2024sep.onnx",
        depth="annotator-depth",
        openpose="annotator-openpose/dw-ll_ucoco_384.onnx",
        people="annotator-openpose/yolox_l.onnx",
    ),
}


@dataclass(frozen=True, slots=True)
class SafetyWeights:
    """A classifier of pictures, a source of transformers' files; a picture is flagged that is one of `labels` with a
    probability of `threshold` or more."""

    classifier: str
    labels: tuple[str, ...]
    threshold: float = 0.5


# The small family's world has nothing in it that anyone would flag.
SAFETY: dict[str, SafetyWeights | None] = {
    "mini": None,
    "flux1": SafetyWeights("safety-classifier", ("nsfw",)),
}


LORAS = (
    "anime",
    "art",
    "disney",
    "furry",
    "mjv6",
    "realism",
    "scenery",
    "collage-artstyle",
    "creepcute",
    "cyberpunk-anime-style",
    "deco-pulse",
    "deep-sea-particle-enhencer",
    "faetastic-details",
    "fractal-geometry",
    "galactixy-illustrations-style",
    "geometric-woman",
    "graphic-portrait",
    "mat-miller-art",
    "moebius-style",
    "ob3d-isometric-3d-room",
    "paper-quilling-and-layering-style",
    "remes-abstract-poster-style",
    "mystic-realism",
)
# Where a family's LoRAs lie: files that ship with fluxserve, or packages.
LORA_FILES: dict[str, dict[str, str]] = {
    "mini": {name: f"mini/loras/{name}.safetensors" for name in LORAS},
    "flux1": {name: name for name in LORAS},
}


def members_here(family: str, is_here: Callable[[str], bool]) -> tuple[str, ...]:
    """Those of a family's members whose weights are here; `is_here` is asked of sources."""
    return tuple(name for name, row in FAMILIES[family].items() if is_here(row.own) and is_here(row.shared))


def abilities(family: str, is_here: Callable[[str], bool] = lambda _source: True) -> frozenset[str]:
    """What a family can draw with of what is here: its members, and "image_prompt", "control" and "loras" if it has
    them."""
    rows = {name: FAMILIES[family][name] for name in members_here(family, is_here)}
    more = {
        "image_prompt": any(row.image_prompt and is_here(row.image_prompt) for row in rows.values()),
        "control": any(row.control and is_here(row.control) for row in rows.values()),
        "loras": bool(LORA_FILES[family]) and "dev" in rows,  # which ones, their names say
    }
    return frozenset([*rows, *(name for name, is_there in more.items() if is_there)])


def abilities_for(generation: Generation) -> frozenset[str]:
    """Those without which it can't be drawn."""
    needed = {
        member_of(generation): True,
        "image_prompt": isinstance(generation.kind, Variation),
        "control": generation.control is not None,
    }
    return frozenset(name for name, is_needed in needed.items() if is_needed)


def member_of(generation: Generation) -> str:
    """The family's member that draws it."""
    match generation.kind:
        case Inpaint() | Outpaint():
            return "fill"
        case Edit():
            return "edit"
        case _:
            return MODELS[generation.model].member


def drawing_size(weights: Weights, width: int, height: int) -> tuple[int, int]:
    """The size at which `width` x `height` is drawn, before it is resampled to exactly that.

    The asked size, brought to the native area if the member has one, else to `MOST_PIXELS_DRAWN` if it is larger, each
    side rounded to the nearest grid line (and at least one grid step). Examples for mini: 1024x1024 -> 256x256,
    1024x512 -> 352x192.
    """
    area = weights.native_pixels or min(MOST_PIXELS_DRAWN, width * height)
    scale = (area / (width * height)) ** 0.5
    grid = weights.side_multiple
    return max(grid, round(width * scale / grid) * grid), max(grid, round(height * scale / grid) * grid)


def reference_size(weights: Weights, width: int, height: int) -> tuple[int, int]:
    """The size at which an editing member is shown a picture of `width` x `height`."""
    if not weights.reference_sizes:
        return drawing_size(weights, width, height)
    return min(weights.reference_sizes, key=lambda size: abs(width / height - size[0] / size[1]))
