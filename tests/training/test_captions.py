"""Captions: they say only what is so, in words the tokenizers know."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from training import captions, world

PAIR = (world.Placed("cat", None, 96, 0, 64), world.Placed("dog", None, 96, 160, 64))


def told(count: int, *, says_background: bool) -> list[tuple[world.Scene, str]]:
    """Scenes and captions, in small letters and without punctuation, a space at either end."""
    rng = np.random.default_rng(5)
    scenes = [world.imagine(rng, held_out=False) for _ in range(count)]
    return [
        (
            scene,
            f" {captions.caption(scene, rng, says_background=says_background).lower()} ".translate({44: "", 46: ""}),
        )
        for scene in scenes
    ]


def lone(count: int) -> list[tuple[world.Scene, str]]:
    return [(scene, text) for scene, text in told(count, says_background=False) if scene.relation is None]


def says(text: str, phrases: tuple[str, ...]) -> bool:
    return any(f" {phrase} " in text for phrase in phrases if phrase)


def test_a_caption_names_its_item_and_no_other() -> None:
    for scene, text in lone(800):
        name = scene.items[0].name
        for thing in world.THINGS:
            assert says(text, thing.names) == (thing.name == name), text
        for shape in world.SHAPES:
            assert says(text, (shape,)) == (shape == name), text


def test_a_caption_gives_a_shape_its_colour_and_a_thing_none() -> None:
    for scene, text in lone(800):
        for colour in world.COLOURS:
            if scene.items[0].figure and not says(text, (colour,)):
                continue  # a person's clothes need not be spoken of
            assert says(text, (colour,)) == (colour == scene.items[0].colour), text


def test_a_caption_says_no_size_but_the_items_own() -> None:
    for scene, text in lone(800):
        for size, words in captions.SIZE_WORDS.items():
            if size != scene.size:
                assert not says(text, words), text


def test_little_and_big_are_always_said() -> None:
    for scene, text in lone(800):
        assert scene.size == "medium" or says(text, captions.SIZE_WORDS[scene.size]), text


def test_a_caption_says_no_place_but_the_items_own() -> None:
    for scene, text in lone(800):
        for place, phrases in captions.PLACE_WORDS.items():
            if place != scene.place:
                assert not says(text, phrases), text


def test_a_place_off_the_centre_is_always_said() -> None:
    for scene, text in lone(800):
        assert scene.place == "centre" or says(text, captions.PLACE_WORDS[scene.place]), text


def test_a_caption_says_the_background_when_asked_to_and_only_then() -> None:
    for scene, text in told(400, says_background=True):
        if scene.background in world.COLOURS:
            assert says(text, (scene.background, "grey" if scene.background == "gray" else "")), text
        else:
            assert says(text, captions.SCENE_WORDS[scene.background]), text
    for _, text in told(400, says_background=False):
        assert not any(says(text, phrases) for phrases in captions.SCENE_WORDS.values()), text


def test_two_things_are_where_the_caption_puts_them() -> None:
    before = {" left of ": "left of", " above ": "above", " over ": "above"}
    after = {" right of ": "left of", " below ": "above", " under ": "above"}
    pairs = [(scene, text) for scene, text in told(3000, says_background=False) if scene.relation in before.values()]
    assert len(pairs) > 100
    for scene, text in pairs:
        words = {**before, **after}
        said = next((word for word in words if word in text.replace(" the left of ", " left of ")), None)
        if said is None:  # "a cat and a dog"
            continue
        assert words[said] == scene.relation, text
        first, second = scene.items if said in before else reversed(scene.items)
        names = {
            item.name: thing.names for item in (first, second) for thing in world.THINGS if thing.name == item.name
        }
        head, tail = text.replace(" the left of ", " left of ").split(said)
        assert says(f"{head} ", names[first.name]), text
        assert says(f" {tail}", names[second.name]), text


def test_a_count_is_the_number_of_items() -> None:
    for scene, text in told(2000, says_background=False):
        if scene.relation == "several":
            assert says(text, captions.COUNT_WORDS[len(scene.items)]), text
            assert not says(text, captions.COUNT_WORDS[5 - len(scene.items)]), text


def test_the_vocabulary_holds_every_word_but_the_invented_ones() -> None:
    known = set(captions.vocabulary())
    unknown: Counter[str] = Counter()
    texts = [text for _, text in told(4000, says_background=True)]
    for text in texts:
        strangers = [word for word in text.split() if word not in known]
        assert len(strangers) <= 1, text
        unknown.update(strangers)
    assert unknown.total() < 0.12 * len(texts)
    assert unknown.most_common(1)[0][1] < 3  # a word of ours that was missing would come up again and again


def test_the_vocabulary_is_sorted_and_says_nothing_twice() -> None:
    assert captions.vocabulary() == sorted(set(captions.vocabulary()))


@pytest.mark.parametrize(("word", "with_article"), [("cat", "a cat"), ("apple", "an apple"), ("big owl", "a big owl")])
def test_an_article_suits_the_letter_after_it(word: str, with_article: str) -> None:
    assert captions.with_article(word) == with_article


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("dog", "dogs"),
        ("fox", "foxes"),
        ("bus", "buses"),
        ("puppy", "puppies"),
        ("monkey", "monkeys"),
        ("mouse", "mice"),
        ("fish", "fish"),
        ("woman", "women"),
    ],
)
def test_plurals_are_as_english_has_them(one: str, many: str) -> None:
    assert captions.plural(one) == many


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        (world.one("owl", None, "teal", "big", "left"), "an owl on a teal background"),
        (world.one("star", "red", "sea", "little", "top"), "a red star in the sea"),
        (
            replace(world.one("cat", None, "snow", "medium", "centre"), items=PAIR, relation="left of"),
            "a cat left of a dog in the snow",
        ),
        (
            replace(world.one("cat", None, "snow", "medium", "centre"), items=PAIR[:1] * 3, relation="several"),
            "three cats in the snow",
        ),
    ],
)
def test_a_plain_caption_says_what_there_is_and_before_what_and_no_more(scene: world.Scene, words: str) -> None:
    assert captions.plain_caption(scene) == words


def test_a_plain_caption_of_a_person_says_what_they_do_and_wear() -> None:
    person = world.someone(np.random.default_rng(4), "teal")
    figure, colour = person.items[0].figure, person.items[0].colour
    assert figure is not None
    assert captions.plain_caption(person) == f"a person {figure.action} in {colour} on a teal background"
