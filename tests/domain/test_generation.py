"""A generation crosses the queue and the pipe unchanged."""

from hypothesis import given
from hypothesis import strategies as st

from fluxserve.domain.generation import (
    KINDS,
    LARGEST_SEED,
    Control,
    Edit,
    Generation,
    ImageToImage,
    Inpaint,
    Lora,
    Outpaint,
    TextToImage,
    Variation,
    from_json,
    images_of,
    to_json,
)

generations = st.builds(
    Generation,
    model=st.text(),
    kind=st.builds(TextToImage, prompt=st.text(), negative_prompt=st.text())
    | st.builds(ImageToImage, st.text(), st.text(), st.floats(0, 1, exclude_min=True), st.text())
    | st.builds(Inpaint, st.text(), st.text(), st.text(), st.text())
    | st.builds(Outpaint, st.text(), st.text(), *(st.integers(0, 4096),) * 4, st.text())
    | st.builds(Variation, st.text(), st.text(), st.text())
    | st.builds(Edit, st.text(), st.text(), st.text()),
    width=st.integers(64, 4096),
    height=st.integers(64, 4096),
    steps=st.integers(1, 40),
    guidance_scale=st.none() | st.floats(1.5, 5),
    seed=st.integers(0, LARGEST_SEED),
    count=st.integers(1, 4),
    format=st.sampled_from(("png", "jpeg", "webp")),
    lora=st.none() | st.builds(Lora, st.text(), st.floats(0, 2)),
    control=st.none() | st.builds(Control, st.just("canny"), st.text(), st.floats(0, 1), st.booleans()),
)


@given(generations)
def test_json_gives_an_equal_generation_back(generation: Generation) -> None:
    assert from_json(to_json(generation)) == generation


@given(generations)
def test_every_picture_has_a_legal_seed_of_its_own(generation: Generation) -> None:
    assert len(set(generation.seeds)) == generation.count
    assert generation.seeds[0] == generation.seed
    assert all(0 <= seed <= LARGEST_SEED for seed in generation.seeds)


@given(generations)
def test_every_picture_that_it_names_is_among_its_images(generation: Generation) -> None:
    values = to_json(generation)
    named = {values["kind"].get("image"), values["kind"].get("mask"), (values["control"] or {}).get("image")} - {None}
    assert set(images_of(generation)) == named


def test_every_kind_has_a_name_of_its_own() -> None:
    assert len(set(KINDS.values())) == len(KINDS) == 6
