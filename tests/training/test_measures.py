"""Measures of what is drawn from pictures: real drawings by the smallest family, and what counts as near."""

import numpy as np
import pytest

from fluxserve.engine.annotators.canny import canny
from training import measures, world
from training.styles import STYLES, styled

CAT = world.paint(world.one("cat", None, "teal", "big", "centre"))


@pytest.mark.usefixtures("family")
def test_pictures_drawn_over_others_are_measured_in_percent() -> None:
    scores = measures.image_to_image(1)
    assert [score.bound for score in scores] == [95, 95, 95]
    assert all(score.score in (0, 100) for score in scores)


@pytest.mark.usefixtures("family")
def test_two_different_things_are_measured_each_in_its_own_box() -> None:
    each, both = measures.pairs(1)
    assert each.score in (0, 50, 100)
    assert both.score == 100 * (each.score == 100)
    pair = measures._two(np.random.default_rng(4))
    for item in pair.items:
        looks = measures._alone_in_its_box(pair.background, item)
        assert measures._nearest(measures._box(world.paint(pair), item), looks) == item.name


def test_the_nearest_reference_is_the_style_that_was_used() -> None:
    looks = {name: styled(name, CAT) for name in STYLES}
    noisy = np.clip(looks["moebius-style"].astype(int) + np.random.default_rng(0).integers(-20, 20, CAT.shape), 0, 255)
    assert measures._nearest(noisy.astype(np.uint8), looks) == "moebius-style"


def test_lines_overlap_with_themselves_and_hardly_with_others() -> None:
    lines = canny(CAT)
    assert measures._overlap(lines, lines) == 1
    assert measures._overlap(lines, np.roll(lines, 40, axis=1)) < 0.4
    assert measures._overlap(np.zeros_like(lines), np.zeros_like(lines)) == 1
