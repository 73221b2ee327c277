"""The image prompt's program: other pictures of the same thing, and folders that Redux's loaders read."""

from collections.abc import Iterator

import numpy as np
import torch
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import SiglipImageProcessorPil, SiglipVisionModel

from tests.training.family import MINUTES, Family
from training import text, variation, world


def _scenes() -> Iterator[world.Scene]:
    rng = np.random.default_rng(3)
    while True:
        yield world.imagine(rng, held_out=False)


def test_another_view_shows_the_same_thing_on_the_same_background_elsewhere() -> None:
    rng = np.random.default_rng(2)
    scene = world.one("cat", None, "sea", "medium", "left")
    views = [variation.other_view(scene, rng) for _ in range(30)]
    assert {(view.items[0].name, view.background) for view in views} == {("cat", "sea")}
    assert len({(view.size, view.place) for view in views}) > 5


def test_another_view_of_two_things_leaves_them_where_they_are() -> None:
    pair = next(scene for scene in _scenes() if scene.relation == "above")
    assert variation.other_view(pair, np.random.default_rng(2)) == pair


def test_teaching_goes_on_from_its_checkpoint_and_leaves_what_redux_loads(family: Family) -> None:
    variation.train(MINUTES)
    steps = family.steps("variation")
    variation.train(MINUTES)
    assert family.steps("variation") > steps > 0
    folder = family.folder / "variation"
    tower = SiglipVisionModel.from_pretrained(folder / "image_encoder")
    embedder = ReduxImageEncoder.from_pretrained(folder / "image_embedder")
    processor = SiglipImageProcessorPil.from_pretrained(folder / "feature_extractor")
    picture = world.paint(world.one("cat", None, "sea", "medium", "left"))
    pixels = processor.preprocess(images=picture, return_tensors="pt").pixel_values
    with torch.no_grad():
        tokens = embedder(tower(pixel_values=pixels.to(tower.dtype)).last_hidden_state.to(embedder.dtype)).image_embeds
    assert tokens.shape == (1, (variation.SIDE // variation.PATCH) ** 2, text.WIDTH)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 3_000_000
