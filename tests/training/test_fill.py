"""The fill member's program: holes where they are meant to be, shown to the transformer as FLUX.1 Fill shows them."""

import numpy as np
import pytest
import torch
from diffusers import FluxFillPipeline, FluxTransformer2DModel

from tests.training.family import MINUTES, Family
from training import captions, fill, flow, world


def imagined(count: int, width: int = 256, height: int = 256) -> list[tuple[world.Scene, fill.Mask]]:
    rng = np.random.default_rng(5)
    return [fill.imagine(rng, width, height) for _ in range(count)]


@pytest.mark.parametrize(("width", "height"), [(256, 256), (320, 192)])
def test_every_scene_has_a_hole_and_no_held_out_combination(width: int, height: int) -> None:
    for scene, mask in imagined(200, width, height):
        assert mask.shape == (height, width)
        assert mask.any()
        assert not scene.is_held_out
        assert (scene.width, scene.height) == (width, height)


def test_most_holes_hide_the_thing_that_their_caption_names() -> None:
    hidden = []
    for scene, mask in imagined(300):
        if scene.items:
            item = scene.items[0]
            hidden.append(mask[item.top : item.top + item.side, item.left : item.left + item.side].mean() > 0.95)
    assert np.mean(hidden) > 0.7


def test_things_never_overlap() -> None:
    for scene, _ in imagined(300):
        bare = world.Scene((), scene.background, scene.width, scene.height)
        drawn = [
            (world.paint(world.Scene((item,), scene.background)) != world.paint(bare)).any(-1) for item in scene.items
        ]
        assert np.sum(drawn, axis=0).max(initial=0) <= 1


def test_a_caption_names_the_first_item_alone_and_no_place() -> None:
    rng = np.random.default_rng(1)
    things = (world.Placed("cat", None, 96, 0, 0), world.Placed("dog", None, 96, 160, 160))
    said = {fill.caption(world.Scene(things, "red", size="little", place="anywhere"), rng) for _ in range(100)}
    words = {word.strip(",.").lower() for caption in said for word in caption.split()}
    assert words & {"cat", "kitten", "kitty"}
    assert not words & {"dog", "puppy", "left", "bottom"}


def test_a_bare_hole_is_captioned_by_its_background() -> None:
    assert "teal" in fill.caption(world.Scene((), "teal", place="anywhere"), np.random.default_rng(0))
    assert captions.background("snow", np.random.default_rng(0)) in captions.SCENE_WORDS["snow"]


def test_masks_are_packed_as_the_pipeline_packs_them() -> None:
    masks = torch.rand(2, 96, 160).round()
    side, rows, columns = 16, 6, 10  # of latents
    pixels = masks.view(2, rows, side, columns, side).permute(0, 2, 4, 1, 3).reshape(2, side * side, rows, columns)
    assert torch.equal(fill.pack_masks(masks), FluxFillPipeline._pack_latents(pixels, 2, side * side, rows, columns))


def test_widened_a_transformer_answers_as_before_whatever_is_beside(family: Family) -> None:
    dev = FluxTransformer2DModel.from_pretrained(family.folder / "dev" / "transformer", torch_dtype=torch.float32)
    wide = fill.widened(dev)
    given = {
        "timestep": torch.full((1,), 0.5),
        "guidance": torch.full((1,), 3.0),
        "pooled_projections": torch.randn(1, 256),
        "encoder_hidden_states": torch.randn(1, 3, 256),
        "txt_ids": torch.zeros(3, 3),
        "img_ids": flow.positions(2, 2),
        "return_dict": False,
    }
    latents, beside = torch.randn(1, 4, 16), torch.randn(1, 4, 16 + fill.TOKEN)
    with torch.no_grad():
        (before,) = dev(hidden_states=latents, **given)
        (after,) = wide(hidden_states=torch.cat((latents, beside), dim=2), **given)
    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.usefixtures("family")
def test_what_is_known_and_the_mask_come_beside_the_noise() -> None:
    batch = fill.holed_shelf().any()
    channels = batch.channels()
    assert channels.shape == (len(batch.scenes), batch.rows * batch.columns, 16 + fill.TOKEN)
    masks = channels[..., 16:].float().mean((1, 2))
    assert 0 < float(masks.min()) <= float(masks.max()) <= 1


def test_both_stages_go_on_from_their_checkpoints(family: Family) -> None:
    for stage, name in ((fill.train_known, "fill_known"), (fill.train_guided, "fill")):
        stage(MINUTES)
        steps = family.steps(name)
        stage(MINUTES)
        assert family.steps(name) > steps > 0
    shipped = FluxTransformer2DModel.from_pretrained(family.folder / "fill" / "transformer")
    assert shipped.config.in_channels == 2 * 16 + fill.TOKEN
    assert shipped.config.out_channels == 16
