"""A sitting: its learning rate rises, holds and falls, and its checkpoint is found again."""

from pathlib import Path

import pytest
import torch

from training import sitting
from training.sitting import Average, Sitting


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitting, "RUNS", tmp_path / "runs")


@pytest.mark.parametrize(("elapsed", "share"), [(0, 0.0), (30, 0.5), (120, 1.0), (420, 1.0), (510, 0.5), (600, 0.0)])
def test_the_learning_rate_warms_up_holds_and_falls(elapsed: float, share: float) -> None:
    work = Sitting("walk", minutes=10, peak_rate=2.0)
    work.began -= elapsed
    assert work.learning_rate() == pytest.approx(2.0 * share, abs=0.01)


def test_a_sitting_ends_when_its_time_is_up() -> None:
    work = Sitting("walk", minutes=1, peak_rate=1.0)
    assert work.lasts()
    work.began -= 61
    assert not work.lasts()


def test_the_next_sitting_goes_on_from_the_last_checkpoint() -> None:
    weights = [torch.nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.SGD(weights, lr=1.0)
    first = Sitting("walk", minutes=1, peak_rate=1.0)
    assert first.load() is None
    for _ in range(3):
        first.step(optimizer, (weights[0] ** 2).sum(), weights)
    first.save(model=weights[0].detach())
    second = Sitting("walk", minutes=1, peak_rate=1.0)
    state = second.load()
    assert state is not None
    assert second.steps == 3
    assert torch.equal(state["model"], weights[0].detach())


def test_a_fresh_checkpoint_is_not_written_again_at_once() -> None:
    work = Sitting("walk", minutes=1, peak_rate=1.0)
    work.save(at_once=False)
    assert not work.path.exists()
    work.saved -= sitting.SAVE_EVERY_SECONDS
    work.save(at_once=False)
    assert work.path.exists()


def test_an_average_follows_its_model() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    average = Average(model, decay=0.5)
    with torch.no_grad():
        model.weight.fill_(8.0)
    for _ in range(30):
        average.update(model)
    assert average.weights["weight"].item() == pytest.approx(8.0, abs=1e-3)
