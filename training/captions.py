"""Words for scenes: many phrasings of what a scene shows, and the vocabulary they are made of.

A caption may leave out the background, the size or the place; it never says anything untrue.
"""

import numpy as np

from training.people import ACTIONS
from training.world import COLOURS, PERSON, SHAPES, SIZES, THINGS, Placed, Scene

OPENINGS = (
    "", "", "", "a photo of", "photo of", "a picture of", "picture of", "an image of", "draw", "a drawing of", "paint",
    "an illustration of", "please draw", "generate", "create an image of", "make a picture of", "i want", "show me",
    "render", "a painting of",
)  # fmt: skip
SIZE_WORDS = {
    "little": ("little", "little", "small", "tiny"),
    "medium": ("", "", "", "medium"),
    "big": ("big", "large", "huge", "great"),
}
PLACE_WORDS = {
    "centre": ("", "", "in the middle", "in the centre", "in the center"),
    "left": ("at the left", "on the left", "on the left side", "to the left"),
    "right": ("at the right", "on the right", "on the right side", "to the right"),
    "top": ("at the top", "on top", "up", "above"),
    "bottom": ("at the bottom", "down", "below"),
    "anywhere": ("",),
}
SCENE_WORDS = {
    "grass": (
        "in the grass",
        "on a meadow",
        "in a great grass sea",
        "on a green field",
        "in a park",
        "in the grass under the sky",
    ),
    "sea": ("in the sea", "at the sea", "on the ocean", "on the water", "by the lake"),
    "night": ("at night", "under the stars", "in the night", "in space", "on a starry night"),
    "sunset": ("at sunset", "in the sunset", "at dawn", "in the evening"),
    "snow": ("in the snow", "in winter", "on the ice", "on snow"),
}
ADORNMENTS = (
    "beautiful", "detailed", "highly", "realistic", "cute", "lovely", "nice", "pretty", "funny", "happy", "bright",
    "style", "art", "digital", "quality", "best", "masterpiece", "cinematic", "lighting", "sharp", "focus", "simple",
    "flat", "vector", "icon", "emoji", "cartoon", "cyberpunk", "professional", "very", "high", "4k", "8k",
)  # fmt: skip
PERSON_NAMES = ("person", "person", "man", "human")
COUNT_WORDS = {2: ("two", "2", "a pair of"), 3: ("three", "3")}
GLUE = (
    "a", "an", "the", "on", "with", "against", "background", "backdrop", "and", "of", "to", "left", "right", "above",
    "over", "below", "under", "next", "beside", "is", "in", "at", "colored", "coloured", "colour", "color", "behind",
    "front", "it", "its", "one", "standing", "sitting", "flying", "my", "your", "grey", "side", "by",
)  # fmt: skip
# What is asked of a picture that is there already.
CHANGES = (
    "change", "make", "turn", "replace", "remove", "delete", "erase", "take", "away", "put", "place", "into", "instead",
    "add", "draw", "another", "same", "keep", "everything", "else", "picture", "please", "from", "color",
)  # fmt: skip


def caption(scene: Scene, rng: np.random.Generator, *, says_background: bool = True) -> str:
    """One of the ways to say what the scene shows."""
    words = [_pick(rng, OPENINGS)]
    if scene.relation is None:
        words += [_item(scene.items[0], scene.size, rng), _pick(rng, PLACE_WORDS[scene.place])]
    elif scene.relation == "several":
        item = scene.items[0]
        words += [_pick(rng, COUNT_WORDS[len(scene.items)]), item.colour or "", plural(_name(item, rng))]
    else:
        words.append(_pair(scene, rng))
    if says_background:
        words.append(background(scene.background, rng))
    if rng.random() < 0.12:
        words += [_pick(rng, ADORNMENTS) for _ in range(rng.integers(1, 4))]
    return _as_typed([word for word in words if word], rng)


def plain_caption(scene: Scene) -> str:
    """What the scene shows and on which background, in the fewest words: not how large, nor where."""
    names = [" ".join(filter(None, (None if item.figure else item.colour, item.name))) for item in scene.items]
    first = scene.items[0]
    match scene.relation:
        case "several":
            what = f"{COUNT_WORDS[len(names)][0]} {plural(names[0])}"
        case None:
            worn = f" {first.figure.action} in {first.colour}" if first.figure else ""
            what = with_article(names[0]) + worn
        case relation:
            what = f"{with_article(names[0])} {'above' if relation == 'above' else 'left of'} {with_article(names[1])}"
    return f"{what} {_background_words(scene.background)[0]}"


def _as_typed(words: list[str], rng: np.random.Generator) -> str:
    """What people do to a sentence: a capital, a comma or full stop, a word nobody taught."""
    if rng.random() < 0.08:
        unknown = "".join(chr(97 + letter) for letter in rng.integers(0, 26, rng.integers(3, 9)))
        words.insert(int(rng.integers(len(words) + 1)), unknown)
    if rng.random() < 0.1:
        where = rng.integers(len(words))
        words[where] += ","
    text = " ".join(words)
    if rng.random() < 0.1:
        text += "."
    return text[0].upper() + text[1:] if rng.random() < 0.1 else text


def _pair(scene: Scene, rng: np.random.Generator) -> str:
    first, second = (with_article(_name(item, rng)) for item in scene.items)
    if scene.relation == "above":
        return _pick(
            rng,
            (f"{first} above {second}", f"{first} over {second}", f"{second} below {first}", f"{second} under {first}"),
        )
    return _pick(
        rng,
        (
            f"{first} to the left of {second}", f"{second} to the right of {first}", f"{first} left of {second}",
            f"{first} and {second}", f"{first} next to {second}",
        ),
    )  # fmt: skip


def _item(item: Placed, size: str, rng: np.random.Generator) -> str:
    how_large = _pick(rng, SIZE_WORDS[size])
    named = _person(item, rng) if item.figure else f"{item.colour or ''} {_name(item, rng)}".strip()
    words = f"{how_large} {named}".strip()
    return words if rng.random() < 0.15 else with_article(words)


def _person(item: Placed, rng: np.random.Generator) -> str:
    """ "person waving in red"."""
    words = [_pick(rng, PERSON_NAMES)]
    if item.figure and rng.random() < 0.7:
        words.append(item.figure.action)
    if rng.random() < 0.8:
        words.append(_pick(rng, (f"in {item.colour}", f"in a {item.colour} shirt", f"wearing {item.colour}")))
    return " ".join(words)


def _name(item: Placed, rng: np.random.Generator) -> str:
    if item.name in SHAPES or item.name == PERSON:
        return item.name
    names = next(thing.names for thing in THINGS if thing.name == item.name)
    return names[0] if rng.random() < 0.5 else _pick(rng, names)


def background(name: str, rng: np.random.Generator) -> str:
    """One of the ways to say what is behind."""
    return _pick(rng, _background_words("grey" if name == "gray" and rng.random() < 0.5 else name))


def _background_words(name: str) -> tuple[str, ...]:
    return SCENE_WORDS.get(name) or (
        f"on a {name} background", f"with a {name} background", f"on {name}", f"against a {name} backdrop",
        f"on {name} background", f"{name} background",
    )  # fmt: skip


def with_article(words: str) -> str:
    """ "a cat", "an owl", "a unicorn"."""
    sounds_like_a_vowel = words[0] in "aeiou" and not words.startswith("uni")
    return f"{'an' if sounds_like_a_vowel else 'a'} {words}"


def plural(name: str) -> str:
    """ "fox" -> "foxes"; regular plurals are all this world needs, but for a few."""
    irregular = {"mouse": "mice", "fish": "fish", "man": "men", "woman": "women"}
    if name in irregular:
        return irregular[name]
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + ("es" if name.endswith(("s", "x", "sh", "ch")) else "s")


def vocabulary() -> list[str]:
    """Every word a caption can hold, sorted."""
    words: set[str] = set(GLUE) | set(ADORNMENTS) | set(COLOURS) | set(SHAPES) | set(SIZES) | set(CHANGES)
    words |= {*ACTIONS, *PERSON_NAMES, "shirt", "wearing"}
    for phrases in (
        OPENINGS,
        *SIZE_WORDS.values(),
        *PLACE_WORDS.values(),
        *SCENE_WORDS.values(),
        *COUNT_WORDS.values(),
    ):
        for phrase in phrases:
            words |= set(phrase.split())
    for name in (*SHAPES, *(name for thing in THINGS for name in thing.names)):
        words |= {*name.split(), *plural(name).split()}
    return sorted(words)


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[rng.integers(len(choices))]
