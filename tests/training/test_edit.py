"""The editing member's program: changes as people ask for them, and what they leave as it was."""

from dataclasses import replace

import numpy as np
import pytest
from diffusers import FluxTransformer2DModel

from tests.training.family import MINUTES, Family
from training import edit, world
from training.edit import Change

CAT = world.one("cat", None, "red", "medium", "left")
CIRCLE = world.one("circle", "red", "teal", "big", "centre")


def imagined(count: int) -> list[Change]:
    rng = np.random.default_rng(7)
    return [edit.imagine(rng, 256, 256, held_out=False) for _ in range(count)]


def ways(change: Change) -> set[str]:
    rng = np.random.default_rng(3)
    return {edit.instruction(change, rng) for _ in range(600)}


def test_a_change_changes_one_thing_and_leaves_the_rest() -> None:
    for change in imagined(200):
        before, after = change.before, change.after
        assert before != after
        assert not after.is_held_out
        if before.background != after.background:
            assert before.items == after.items
        else:
            assert after.items[1:] == before.items[1:] or after.items == before.items[1:] or before.items[0].colour
        places = [(item.left, item.top, item.side) for item in before.items]
        assert all((item.left, item.top, item.side) in places for item in after.items)


def test_all_four_kinds_of_change_come_up() -> None:
    verbs = {edit.instruction(change, np.random.default_rng(0)).split()[0] for change in imagined(100)}
    backgrounds = sum(change.before.background != change.after.background for change in imagined(100))
    assert len(verbs) >= 3
    assert 10 < backgrounds < 90


@pytest.mark.parametrize(
    ("change", "one_way"),
    [
        (Change(CAT, replace(CAT, background="blue")), "make the background blue"),
        (Change(CAT, replace(CAT, items=())), "remove the cat"),
        (Change(CAT, replace(CAT, items=(replace(CAT.items[0], name="dog"),))), "replace the cat with a dog"),
        (
            Change(CIRCLE, replace(CIRCLE, items=(replace(CIRCLE.items[0], colour="green"),))),
            "change the red circle to green",
        ),
    ],
)
def test_a_change_is_asked_for_as_people_do(change: Change, one_way: str) -> None:
    assert one_way in ways(change)
    assert len(ways(change)) >= 3


def test_it_is_said_only_of_what_stands_alone() -> None:
    alone, beside = replace(CIRCLE.items[0], colour="green"), world.Placed("dog", None, 96, 160, 80)
    pair = replace(CIRCLE, items=(*CIRCLE.items, beside), relation="left of")
    of_one = Change(CIRCLE, replace(CIRCLE, items=(alone,)))
    of_two = Change(pair, replace(pair, items=(alone, beside)))
    assert "make it green" in ways(of_one)
    assert not any(" it " in way for way in ways(of_two))


def test_some_changes_are_told_by_the_caption_of_what_they_end_in() -> None:
    rng, change = np.random.default_rng(3), Change(CAT, replace(CAT, items=(replace(CAT.items[0], name="dog"),)))
    told = [edit.said(change, rng, unsaid=0.1) for _ in range(400)]
    assert 20 < told.count("") < 70
    assert 100 < told.count("a dog on a red background") < 200
    assert set(told) <= {"", "a dog on a red background", *ways(change)}


def test_an_empty_scene_has_no_caption() -> None:
    rng, change = np.random.default_rng(3), Change(CAT, replace(CAT, items=()))
    assert {edit.said(change, rng, unsaid=0.0) for _ in range(60)} == ways(change)


def test_what_changes_weighs_more_than_what_stays(family: Family) -> None:
    assert family.folder.exists()
    batch = edit.changed_shelf().any()
    weights = edit.change_weights(batch)
    assert weights.shape == (len(batch.scenes), batch.rows * batch.columns, 1)
    assert abs(float(weights.mean()) - 1) < 1e-5


def test_both_stages_go_on_from_their_checkpoints(family: Family) -> None:
    for stage, name in ((edit.train_seen, "edit_seen"), (edit.train_guided, "edit")):
        stage(MINUTES)
        steps = family.steps(name)
        stage(MINUTES)
        assert family.steps(name) > steps > 0
    shipped = FluxTransformer2DModel.from_pretrained(family.folder / "edit" / "transformer")
    assert shipped.config.in_channels == 16
