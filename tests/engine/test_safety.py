"""Safety: a real classifier, made small, that flags what is red."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from fluxserve.domain.catalog import SafetyWeights
from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.engine.engine import Engine
from fluxserve.engine.safety import FlaggedError, Safety

ALLOWED, FLAGGED = "normal", "nsfw"


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """It says the same of every picture; `_says` turns it."""
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=16, patch_size=8,
        id2label={0: ALLOWED, 1: FLAGGED}, label2id={ALLOWED: 0, FLAGGED: 1},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    return tmp_path


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
        return len(engine.generate(asked, {}, lambda _step, _steps: None, lambda: False))

    engine._safety = safety(classifier, flags_with=0.1)
    assert draw() == 2
    engine._safety = safety(classifier, flags_with=0.9)
    with pytest.raises(FlaggedError):
        draw()
