"""The scores: marks follow the verdict, and a measurement goes into the card and the results."""

import argparse
import dataclasses
import json

import numpy as np
import pytest

from tests.training.family import Family
from training import card, evaluate, world
from training.judge import Verdict

SCENE = world.one("star", "red", "night", "little", "left")
RIGHT = Verdict("night", "star", "red", "little", "left", error=0.1)


def test_a_right_picture_has_every_mark() -> None:
    assert set(evaluate.marks(SCENE, RIGHT)) == {
        "nearest", "thing", "colour", "background", "place", "size", "all",
    }  # fmt: skip
    assert all(evaluate.marks(SCENE, RIGHT).values())


@pytest.mark.parametrize(
    ("lost", "verdict"),
    [
        ({"nearest", "thing"}, dataclasses.replace(RIGHT, name="heart")),
        ({"colour"}, dataclasses.replace(RIGHT, colour="blue")),
        ({"background"}, dataclasses.replace(RIGHT, background="sea")),
        ({"place"}, dataclasses.replace(RIGHT, place="right")),
        ({"size"}, dataclasses.replace(RIGHT, size="big")),
    ],
)
def test_one_fault_costs_its_own_marks_and_the_mark_for_all(lost: set[str], verdict: Verdict) -> None:
    marks = evaluate.marks(SCENE, verdict)
    assert {measure for measure, is_right in marks.items() if not is_right} == lost | {"all"}


def test_where_nothing_is_in_focus_only_the_background_and_the_best_match_can_be_right() -> None:
    marks = evaluate.marks(SCENE, dataclasses.replace(RIGHT, error=0.9))
    assert {measure for measure, is_right in marks.items() if is_right} == {"nearest", "background"}


def test_a_thing_has_no_mark_for_colour() -> None:
    scene = world.one("cat", None, "red", "big", "centre")
    assert "colour" not in evaluate.marks(scene, RIGHT)


def test_measured_scenes_are_held_out_lone_and_always_the_same() -> None:
    scenes = evaluate.held_out_scenes(50)
    assert scenes == evaluate.held_out_scenes(50)
    assert all(scene.is_held_out and len(scene.items) == 1 for scene in scenes)


def test_pictures_depend_on_their_own_seed_and_prompt_alone(family: Family) -> None:
    assert family.folder.exists()
    alone = evaluate.draw("schnell", ["a cat"])
    among = evaluate.draw("schnell", ["a cat", "a cat", "a big dog"])
    assert alone.shape == (1, 256, 256, 3)
    assert np.abs(alone[0].astype(int) - among[0]).max() <= 1
    assert (among[0] != among[1]).any()
    assert evaluate.draw("dev", ["a cat"]).shape == (1, 256, 256, 3)


def test_a_measurement_goes_into_the_results_and_the_card(family: Family) -> None:
    evaluate.evaluate(2, ("vae", "schnell"))
    assert family.folder / "README.md" == card.CARD
    records = json.loads(card.RESULTS.read_text())
    assert [record["member"] for record in records] == ["vae", "schnell"]
    assert all(record["machine"]["torch"] and "--pictures 2" in record["command"] for record in records)
    text = card.CARD.read_text()
    assert "| schnell | of all things, the one named is the best match | 97 % |" in text
    assert "| vae | PSNR, held-out scenes | 30 dB |" in text


def test_a_member_that_is_not_there_is_refused_by_name() -> None:
    assert evaluate._members("vae,dev") == ("vae", "dev")
    with pytest.raises(argparse.ArgumentTypeError, match="pro"):
        evaluate._members("dev,pro")
