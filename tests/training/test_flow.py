"""The transformers' program: latents packed in FLUX's order, sittings that resume, folders that FLUX's loaders read."""

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

from tests.training.family import MINUTES, Family
from training import captions, flow, world
from training.latents import Batch, pack


def test_latents_are_packed_as_the_pipeline_packs_them() -> None:
    latents = torch.randn(2, 32, 12, 20)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 32, 12, 20))


def test_positions_are_the_pipelines_image_ids() -> None:
    ids = FluxPipeline._prepare_latent_image_ids(1, 6, 10, torch.device("cpu"), torch.float32)
    assert torch.equal(flow.positions(6, 10).cpu(), ids)


def test_tokens_of_things_weigh_more_and_all_weigh_one_in_the_mean() -> None:
    scene = world.Scene((world.Placed("cat", None, 96, 32, 64),), "red")
    weights = flow.thing_weights(Batch([scene], torch.zeros(1, 64, 128))).view(8, 8)
    assert abs(float(weights.mean()) - 1) < 1e-6
    heavy = torch.zeros(8, 8, dtype=torch.bool)
    heavy[2:5, 1:4] = True
    assert torch.equal(weights.cpu() > 1, heavy)


def test_an_untaught_transformer_answers_nothing() -> None:
    model = flow.untaught()
    given = {
        "hidden_states": torch.randn(1, 4, model.config.in_channels),
        "timestep": torch.full((1,), 0.5),
        "guidance": torch.ones(1),
        "pooled_projections": torch.randn(1, 256),
        "encoder_hidden_states": torch.randn(1, 3, 256),
        "txt_ids": torch.zeros(3, 3),
        "img_ids": flow.positions(2, 2).cpu(),
        "return_dict": False,
    }
    with torch.no_grad():
        (answer,) = model(**given)
    assert not answer.any()


def test_every_stage_goes_on_from_its_checkpoint(family: Family) -> None:
    before = {stage: family.steps(stage) for stage in ("base", "dev", "schnell")}
    assert min(before.values()) > 0
    flow.train_base(MINUTES, plain=0.1)
    flow.train_dev(MINUTES)
    flow.train_schnell(MINUTES)
    assert all(family.steps(stage) > steps for stage, steps in before.items())


@pytest.mark.usefixtures("family")
def test_a_caption_reads_the_same_once_a_transformer_has_learned() -> None:
    """The transformer's quick attention has no masks: the text encoders, run in between, need theirs."""
    reader = flow.Reader()
    before = reader.read(["a cat to the left of a dog"])
    flow.train_base(MINUTES, plain=0.1)
    after = reader.read(["a cat to the left of a dog"])
    assert torch.equal(before.sequence, after.sequence)
    assert torch.equal(before.pooled, after.pooled)


def test_only_dev_takes_guidance(family: Family) -> None:
    takes = {
        member: FluxTransformer2DModel.from_pretrained(family.folder / member / "transformer").config.guidance_embeds
        for member in ("dev", "schnell")
    }
    assert takes == {"dev": True, "schnell": False}


def test_schnell_begins_as_dev_at_its_own_guidance(family: Family) -> None:
    dev = FluxTransformer2DModel.from_pretrained(family.folder / "dev" / "transformer", torch_dtype=torch.float32)
    schnell = flow._without_guidance(dev)
    given = {
        "hidden_states": torch.randn(1, 4, 16),
        "timestep": torch.full((1,), 0.5),
        "pooled_projections": torch.randn(1, 256),
        "encoder_hidden_states": torch.randn(1, 3, 256),
        "txt_ids": torch.zeros(3, 3),
        "img_ids": flow.positions(2, 2),
        "return_dict": False,
    }
    with torch.no_grad():
        (with_guidance,) = dev(**given, guidance=torch.full((1,), flow.SCHNELL_GUIDANCE))
        (without,) = schnell(**given, guidance=None)
    assert torch.allclose(with_guidance, without, atol=1e-4)


@pytest.mark.parametrize(("by", "kept"), [(1, (0, 1, 3)), (2, (0, 3))])
def test_shortened_a_transformer_keeps_its_first_single_blocks_and_its_last(
    by: int, kept: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "CONFIG", {**flow.CONFIG, "num_single_layers": 4})
    model = flow.untaught()
    short = flow.shortened(model, by)
    assert len(short.single_transformer_blocks) == len(kept)
    for new, old in enumerate(kept):
        weights = model.single_transformer_blocks[old].state_dict()
        assert all(
            torch.equal(weight, weights[name])
            for name, weight in short.single_transformer_blocks[new].state_dict().items()
        )


def test_a_student_of_guidance_begins_with_one_answer_at_every_scale(family: Family) -> None:
    dev = FluxTransformer2DModel.from_pretrained(family.folder / "dev" / "transformer", torch_dtype=torch.float32)
    given = {
        "hidden_states": torch.randn(1, 4, 16),
        "timestep": torch.full((1,), 0.5),
        "pooled_projections": torch.randn(1, 256),
        "encoder_hidden_states": torch.randn(1, 3, 256),
        "txt_ids": torch.zeros(3, 3),
        "img_ids": flow.positions(2, 2),
        "return_dict": False,
    }
    with torch.no_grad():
        (wanted,) = dev(**given, guidance=torch.ones(1))
        deaf = flow._deaf_to_guidance(dev)
        for scale in (1.0, 2.5, 5.0):
            (answer,) = deaf(**given, guidance=torch.full((1,), scale))
            assert torch.allclose(answer, wanted, atol=1e-5)


@pytest.mark.usefixtures("family")
def test_some_captions_are_told_to_t5_alone() -> None:
    reader, rng = flow.Reader(), np.random.default_rng(6)
    scenes = [world.one("cat", None, "sea", "medium", "left")] * 8
    batch = Batch(scenes, torch.zeros(8, 64, 16))
    silent = reader.read([""])
    words = reader.captions_of(batch, rng, unsaid=0.0, unpooled=1.0)
    assert torch.equal(words.pooled, silent.pooled.expand(8, -1))
    assert not any(torch.equal(each, silent.sequence[0]) for each in words.sequence)


@pytest.mark.usefixtures("family")
def test_captions_may_come_after_a_prompt_that_says_nothing() -> None:
    reader, rng = flow.Reader(), np.random.default_rng(6)
    batch = Batch([world.one("cat", None, "sea", "medium", "left")] * 8, torch.zeros(8, 64, 16))
    words = reader.captions_after_nothing(batch, rng, unsaid=0.0)
    before, said = words.sequence.chunk(2, dim=1)
    openings = reader.read([*captions.OPENINGS])
    assert all(any(torch.equal(each, one) for one in openings.sequence) for each in before)
    assert not any(torch.equal(each, one) for each in said for one in openings.sequence)
    assert all(any(torch.allclose(each, one) for one in openings.pooled) for each in words.pooled)
