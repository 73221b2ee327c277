"""The safety check looks at one picture while the next is being drawn, and sees what it would see alone."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fluxserve.domain.catalog import SafetyWeights
from fluxserve.domain.generation import Generation
from fluxserve.engine.plan import Plan
from fluxserve.engine.png import Pixels
from fluxserve.engine.safety import FlaggedError, Safety
from fluxserve.engine.tuning import Tuning
from tests.engine.family import FLAGGED, build_classifier
from tests.gpu.conftest import EngineOf, LoaderOf

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def pictures(how_many: int) -> list[Pixels]:
    """Of one colour each."""
    random = np.random.default_rng(0)
    return [np.broadcast_to(random.integers(0, 256, 3, np.uint8), (64, 64, 3)).copy() for _ in range(how_many)]


def likelihoods(safety: Safety, seen: list[Pixels]) -> list[float]:
    """How likely each is to be flagged: found by asking, with thresholds between 0 and 1."""
    found = []
    for pixels in seen:
        low, high = 0.0, 1.0
        for _ in range(20):
            safety._threshold = (low + high) / 2
            low, high = (safety._threshold, high) if is_flagged(safety, pixels) else (low, safety._threshold)
        found.append((low + high) / 2)
    return found


def is_flagged(safety: Safety, pixels: Pixels) -> bool:
    try:
        safety.check(pixels)
    except FlaggedError:
        return True
    return False


def test_in_another_thread_its_verdict_is_the_same_while_drawing_goes_on(
    loader_of: LoaderOf, engine_of: EngineOf, cat: Generation, device: torch.device, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    weights = SafetyWeights(str(build_classifier(tmp_path)), (FLAGGED,))
    alone, ours = Safety(weights, torch.device("cpu")), Safety(weights, device)
    seen = pictures(6)
    expected = likelihoods(alone, seen)
    engine = engine_of(loader_of(Plan(torch.bfloat16), tuning=Tuning(replays=True)))
    with ThreadPoolExecutor(1) as finisher:
        found = finisher.submit(likelihoods, ours, seen)
        turns = 0
        while not found.done() or turns < 4:
            asked = replace(cat, width=64 + 32 * (turns % 12), seed=turns)  # each shape is recorded once
            engine.generate(asked, {}, lambda *_: None, lambda: False)
            turns += 1
    assert found.result() == pytest.approx(expected, abs=2e-3)
