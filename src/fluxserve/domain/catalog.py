"""The catalogue: what can be asked for, and where its weights lie.

Two tables. `MODELS` is what callers see: names, limits, defaults, prices. `FAMILIES` says which weights draw them: the
small ones that ship with fluxserve ("mini") or the full ones ("flux1"); the code that loads and runs them is the same.
"""

from dataclasses import dataclass

from fluxserve.domain.errors import InvalidInput

POINTS_PER_USD = 10_000_000
MOST_PIXELS = 1_048_576
SHORTEST_SIDE = 64
LONGEST_SIDE = 4096


@dataclass(frozen=True, slots=True)
class Model:
    """One model as callers see it. Prices are points a picture; 10,000,000 points are one US dollar."""

    name: str
    default_steps: int
    most_steps: int
    price: int
    default_guidance: float | None
    least_guidance: float = 1.5
    most_guidance: float = 5.0
    most_pictures: int = 1
    default_side: int = 1024

    def size(self, width: int | None, height: int | None) -> tuple[int, int]:
        """The size asked for; 0 or None stands for the default. Raises `InvalidInput`."""
        sides = {"width": width or self.default_side, "height": height or self.default_side}
        for field, side in sides.items():
            if not SHORTEST_SIDE <= side <= LONGEST_SIDE:
                raise InvalidInput(
                    field, side, f"allowed are {SHORTEST_SIDE} to {LONGEST_SIDE} pixels, 0 for the default"
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

    def guidance(self, asked: float | None) -> float | None:
        """The guidance scale to draw with, None for a model that has none. Raises `InvalidInput`."""
        if asked is not None and not self.least_guidance <= asked <= self.most_guidance:
            raise InvalidInput(
                "guidance_scale", asked, f"allowed are {self.least_guidance:g} to {self.most_guidance:g}"
            )
        return None if self.default_guidance is None else asked or self.default_guidance


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model("flux1-schnell", 4, 10, 20_000, default_guidance=None, most_pictures=4),
        Model("flux1-dev", 25, 40, 150_000, default_guidance=3.5),
        Model("flux1-dev-advanced", 25, 40, 200_000, default_guidance=3.5),
    )
}


@dataclass(frozen=True, slots=True)
class Weights:
    """Where one model's weights lie and how they like to be used.

    `own` and `shared` are diffusers folders or hub ids: `own` holds the subfolders transformer and scheduler, `shared`
    the text encoders, tokenizers and VAE, one copy for all models that name the same. A path that begins with
    ``mini/`` is the family that ships with fluxserve.

    `native_pixels`: the area the model was taught at; larger or smaller pictures are drawn at about this area and
    resampled. None means that it draws any area itself. `side_multiple` is the grid its sides are drawn on, in pixels.
    `prompt_tokens` is T5's fixed length. `negative_guidance` is the true classifier-free guidance scale that a
    negative prompt switches on.
    """

    own: str
    shared: str
    prompt_tokens: int
    side_multiple: int = 16
    native_pixels: int | None = None
    negative_guidance: float = 2.0


def _mini(member: str) -> Weights:
    return Weights(f"mini/{member}", "mini/shared", prompt_tokens=24, side_multiple=32, native_pixels=256 * 256)


def _flux1(name: str, prompt_tokens: int) -> Weights:
    return Weights(f"black-forest-labs/FLUX.1-{name}", "black-forest-labs/FLUX.1-schnell", prompt_tokens)


FAMILIES: dict[str, dict[str, Weights]] = {
    "mini": {
        "flux1-schnell": _mini("schnell"),
        "flux1-dev": _mini("dev"),
        "flux1-dev-advanced": _mini("dev"),
    },
    "flux1": {
        "flux1-schnell": _flux1("schnell", 256),
        "flux1-dev": _flux1("dev", 512),
        "flux1-dev-advanced": _flux1("dev", 512),
    },
}


def drawing_size(weights: Weights, width: int, height: int) -> tuple[int, int]:
    """The size at which `width` x `height` is drawn, before it is resampled to exactly that.

    The asked size, brought to the native area if the model has one, each side rounded to the nearest grid line (and at
    least one grid step). Examples for mini: 1024x1024 -> 256x256, 1024x512 -> 352x192.
    """
    scale = 1.0 if weights.native_pixels is None else (weights.native_pixels / (width * height)) ** 0.5
    grid = weights.side_multiple
    return max(grid, round(width * scale / grid) * grid), max(grid, round(height * scale / grid) * grid)
