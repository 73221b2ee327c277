"""The annotators' programs: lessons whose answers are known, and files that the engine's annotators read."""

import numpy as np
import torch

from fluxserve.domain.catalog import ANNOTATORS
from fluxserve.engine.annotators import Annotators
from fluxserve.engine.annotators.pose import COCO
from fluxserve.engine.sources import Sources
from tests.training.family import MINUTES, Family
from training import annotators, maps, measures, world


def test_a_spoilt_picture_is_still_that_picture() -> None:
    rng, picture = np.random.default_rng(0), world.paint(world.one("cat", None, "sea", "big", "centre"))
    for _ in range(20):
        worse = annotators.spoilt(picture, rng)
        assert worse.dtype == np.uint8
        assert worse.shape == picture.shape
        assert np.abs(worse.astype(int) - picture).mean() < 70


def test_joints_are_answered_by_their_columns_and_rows() -> None:
    scene = world.someone(np.random.default_rng(3), "teal")
    answer, joints = annotators.whereabouts(scene), maps.joints(scene)[0]
    for ours, number in enumerate(COCO):
        if number is not None:
            assert np.abs(2 * answer[:, number].argmax(1) - joints[ours]).max() <= 1
    assert not annotators.whereabouts(world.one("cat", None, "sea", "big", "centre")).any()


def test_what_they_learn_the_engine_reads(family: Family) -> None:
    for teach in annotators.STAGES.values():
        teach(MINUTES)
    read = Annotators(ANNOTATORS["mini"], Sources(family.folder), torch.device("cpu"))
    png = measures._png(world.paint(world.someone(np.random.default_rng(3), "snow")))
    for control in ("soft_edge", "depth", "openpose"):
        assert read.annotate(control, png, (96, 64)).shape == (64, 96, 3)
    assert family.steps("annotator_depth") > 0
