"""The catalogue's rows, and the one rule for sizes."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxserve.domain.catalog import (
    FAMILIES,
    LONGEST_SIDE,
    MODELS,
    SHORTEST_SIDE,
    Model,
    Weights,
    abilities,
    abilities_for,
    drawing_size,
    members_here,
)
from fluxserve.domain.errors import InvalidInput
from fluxserve.domain.generation import Control, Edit, Generation, Inpaint, Kind, Outpaint, TextToImage, Variation

MINI = FAMILIES["mini"]["dev"]
FULL = FAMILIES["flux1"]["dev"]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_every_family_has_a_member_for_every_model(family: dict[str, Weights]) -> None:
    assert family.keys() >= {model.member for model in MODELS.values()}


@pytest.mark.parametrize(
    ("asked", "mini", "full"),
    [
        ((1024, 1024), (256, 256), (1024, 1024)),
        ((256, 256), (256, 256), (256, 256)),
        ((64, 64), (256, 256), (64, 64)),
        ((1024, 512), (352, 192), (1024, 512)),
        ((1000, 1000), (256, 256), (992, 992)),  # halfway between two grid lines: to the even one
        ((4096, 64), (2048, 32), (4096, 64)),
        ((4096, 3072), (288, 224), (1680, 1248)),  # two megapixels
    ],
)
def test_drawing_sizes(asked: tuple[int, int], mini: tuple[int, int], full: tuple[int, int]) -> None:
    assert drawing_size(MINI, *asked) == mini
    assert drawing_size(FULL, *asked) == full


@given(st.integers(SHORTEST_SIDE, LONGEST_SIDE), st.integers(SHORTEST_SIDE, LONGEST_SIDE))
def test_a_drawing_size_lies_on_the_grid_near_the_native_area(width: int, height: int) -> None:
    drawn = drawing_size(MINI, width, height)

    assert all(side > 0 and side % MINI.side_multiple == 0 for side in drawn)
    assert MINI.native_pixels is not None
    assert drawn[0] * drawn[1] <= 2 * MINI.native_pixels


@pytest.mark.parametrize(
    ("name", "limit", "field"),
    [
        ("flux1-schnell", lambda model: model.steps(11), "steps"),
        ("flux1-dev", lambda model: model.steps(-1), "steps"),
        ("flux1-dev", lambda model: model.guidance(5.1), "guidance_scale"),
        ("flux1-dev", lambda model: model.size(63, 0), "width"),
        ("flux1-dev", lambda model: model.size(None, 4097), "height"),
        ("flux1-dev", lambda model: model.size(1024, 1025), "width"),
    ],
)
def test_what_a_model_cant_do_is_refused_by_field(name: str, limit: Callable[[Model], object], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        limit(MODELS[name])

    assert refused.value.field == field
    assert refused.value.inside("input").message.startswith(f"input.{field}: ")


def test_defaults_stand_in_for_nothing_and_for_zero() -> None:
    dev, schnell = MODELS["flux1-dev"], MODELS["flux1-schnell"]

    assert (dev.steps(0), dev.steps(None), dev.guidance(None)) == (25, 25, 3.5)
    assert (dev.size(0, None), schnell.guidance(3.0)) == ((1024, 1024), None)


@pytest.mark.parametrize(
    ("picture", "drawn"),
    [
        ((1024, 1024), (1024, 1024)),
        ((333, 200), (333, 200)),
        ((2048, 2048), (1024, 1024)),
        ((4096, 1024), (2048, 512)),
        ((16, 16), (64, 64)),
        ((8192, 16), (8192, 64)),
    ],
)
def test_a_picture_drawn_from_another_has_its_size_or_the_largest_of_its_shape(
    picture: tuple[int, int], drawn: tuple[int, int]
) -> None:
    assert MODELS["flux1-dev"].size_like(*picture) == drawn


@pytest.mark.parametrize(
    ("here", "able"),
    [
        ("", ""),
        ("flux1-dev", ""),  # nothing draws without the text encoders
        ("flux1-schnell flux1-encoders", "schnell"),
        ("flux1-dev flux1-encoders", "dev loras"),
        ("flux1-dev flux1-encoders flux1-redux-dev", "dev loras image_prompt"),
        ("flux1-schnell flux1-encoders flux1-redux-dev flux1-controlnet", "schnell"),  # those go with dev
        ("flux1-fill-dev flux1-kontext-dev flux1-encoders", "fill edit"),
    ],
)
def test_a_family_can_do_what_its_weights_are_here_for(here: str, able: str) -> None:
    def is_here(source: str) -> bool:
        return source in here.split()

    assert abilities("flux1", is_here) == set(able.split())
    assert set(members_here("flux1", is_here)) <= set(able.split())


@pytest.mark.parametrize(
    ("kind", "control", "needed"),
    [
        (TextToImage("a cat"), None, {"dev"}),
        (TextToImage("a cat"), Control("canny", "key", 0.7), {"dev", "control"}),
        (Variation("", "key"), None, {"dev", "image_prompt"}),
        (Inpaint("a cat", "key", "mask"), None, {"fill"}),
        (Outpaint("a cat", "key", left=8, right=0, top=0, bottom=0), None, {"fill"}),
        (Edit("a cat", "key"), None, {"edit"}),
    ],
)
def test_a_generation_needs_its_member_and_what_goes_with_it(
    kind: Kind, control: Control | None, needed: set[str]
) -> None:
    asked = Generation("flux1-dev-advanced", kind, 64, 64, 1, guidance_scale=3.5, seed=1, control=control)

    assert abilities_for(asked) == needed
