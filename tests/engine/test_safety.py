"""Safety: a real classifier, made small, that flags what is red."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fluxserve.domain.catalog import SafetyWeights
from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.engine.engine import Engine
from fluxserve.engine.safety import FlaggedError, Safety
from tests.engine.family import FLAGGED, build_classifier


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return build_classifier(tmp_path)


def safety(classifier: Path, *, flags_with: float, threshold: float = 0.5) -> Safety:
    """One whose classifier gives "nsfw" this probability, whatever it sees."""
    made = Safety(SafetyWeights(str(classifier), (FLAGGED,), threshold), torch.device("cpu"))
    head = made._network.classifier
    head.weight.zero_()
    head.bias.copy_(torch.tensor([1 - flags_with, flags_with]).log())
    return made


PICTURE = np.zeros((40, 60, 3), np.uint8)


def test_a_picture_is_flagged_from_the_threshold_on(classifier: Path) -> None:
    safety(classifier, flags_with=0.49).check(PICTURE)
    with pytest.raises(FlaggedError, match="flagged by the safety check"):
        safety(classifier, flags_with=0.51).check(PICTURE)
    safety(classifier, flags_with=0.51, threshold=0.6).check(PICTURE)


def test_a_label_that_the_classifier_does_not_know_is_refused_at_once(classifier: Path) -> None:
    with pytest.raises(ValueError, match="has no label gore, but normal, nsfw"):
        Safety(SafetyWeights(str(classifier), ("gore",)), torch.device("cpu"))


def test_the_engine_looks_at_every_picture_and_hands_out_none_that_is_flagged(engine: Engine, classifier: Path) -> None:
    asked = Generation("flux1-schnell", TextToImage("a cat"), 64, 64, steps=1, guidance_scale=None, seed=1, count=2)

    def draw() -> int:
        drawn = engine.generate(asked, {}, lambda *_: None, lambda: False)
        return len([engine.finish(each, asked, {}) for each in drawn])

    engine._safety = safety(classifier, flags_with=0.1)
    assert draw() == 2
    engine._safety = safety(classifier, flags_with=0.9)
    with pytest.raises(FlaggedError):
        draw()
