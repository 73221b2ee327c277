"""A sitting: its learning rate rises, holds and falls, and its checkpoint is found again."""

import time
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pytest
import torch
from torch import distributed

from training import sitting
from training.sitting import Average, Sitting


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own_by_the_real_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitting, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(sitting, "time", time)


def begun(minutes: float, *, seconds_ago: float, peak_rate: float = 1.0) -> Sitting:
    """A sitting whose first step is some time ago."""
    work = Sitting("walk", minutes, peak_rate)
    work.lasts()
    work.began = time.monotonic() - seconds_ago
    return work


@pytest.mark.parametrize(("elapsed", "share"), [(0, 0.0), (30, 0.5), (120, 1.0), (420, 1.0), (510, 0.5), (600, 0.0)])
def test_the_learning_rate_warms_up_holds_and_falls(elapsed: float, share: float) -> None:
    work = begun(10, seconds_ago=elapsed, peak_rate=2.0)
    work.lasts()
    assert work.learning_rate() == pytest.approx(2.0 * share, abs=0.01)


def test_a_sitting_ends_when_its_time_is_up() -> None:
    assert begun(1, seconds_ago=59).lasts()
    assert not begun(1, seconds_ago=61).lasts()


def test_there_is_time_for_one_step_however_long_the_preparations_were(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Sitting("walk", minutes=1, peak_rate=1.0)
    prepared = time.monotonic() + 300
    monkeypatch.setattr(time, "monotonic", lambda: prepared)
    assert work.lasts()
    assert work.elapsed == 0


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


def _sit(number: int, folder: str, answers: SimpleQueue) -> None:  # type: ignore[type-arg]
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=number, world_size=2)
    sitting.RUNS = Path(folder)
    work = begun(1, seconds_ago=10 + 20 * number)
    work.lasts()
    mean = sitting.mean_of_all(torch.tensor([1.0, 4.0]) * number)
    work.save(model=torch.tensor(number))
    answers.put((work.elapsed, work.learning_rate(), mean.tolist(), sitting.rank()))
    distributed.destroy_process_group()


def test_processes_that_sit_together_share_a_clock_and_means_and_the_first_one_writes(tmp_path: Path) -> None:
    context = torch.multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    processes = [context.Process(target=_sit, args=(number, str(tmp_path), answers)) for number in range(2)]
    for process in processes:
        process.start()
    told = sorted((answers.get() for _ in processes), key=lambda answer: int(answer[-1]))
    for process in processes:
        process.join()
    assert told[0][:3] == told[1][:3]
    assert told[0][0] == pytest.approx(20, abs=8)
    assert told[0][2] == [0.5, 2.0]
    assert torch.load(tmp_path / "walk.pt", weights_only=True)["model"] == 0


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
