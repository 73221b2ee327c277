"""Steps that are CUDA graphs answer exactly as the networks do, whatever changed since they were recorded."""

from dataclasses import replace
from threading import Event, Thread

import pytest
import torch

from fluxserve.engine.network import (
    ControlNetwork,
    Precision,
    ReplayedControl,
    ReplayedTransformer,
    Residuals,
    Transformer,
)
from fluxserve.engine.network.layers import layer_at
from fluxserve.engine.network.replay import MOST_KEPT, MOST_TOKENS
from tests.engine.network.networks import SHAPE, made, shown_to, told_to

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

NOTHING = Residuals()
CONTROL = replace(SHAPE, doubles=1, singles=2)


def transformer_on(device: torch.device, precision: Precision = "whole") -> Transformer:
    network = made(Transformer, SHAPE, precision, 1, device, torch.bfloat16)
    assert isinstance(network, Transformer)
    return network


def control_on(device: torch.device) -> ControlNetwork:
    network = made(ControlNetwork, CONTROL, "whole", 2, device, torch.bfloat16)
    assert isinstance(network, ControlNetwork)
    return network


def assert_same(
    replays: ReplayedTransformer | Transformer,
    transformer: Transformer,
    rows: int,
    columns: int,
    *,
    words: int = 24,
    reference: int = 0,
    seed: int = 0,
    steps: tuple[int, ...] = (0, 1),
) -> None:
    told = told_to(transformer, rows, columns, words, reference, seed)
    for step in steps:
        tokens = shown_to(transformer, rows * columns + reference, seed + step)
        answer = replays(tokens, told, step, NOTHING, rows * columns)
        assert torch.equal(answer, transformer(tokens, told, step, NOTHING, rows * columns))


@pytest.mark.parametrize("precision", ["whole", "fp8", "nf4"])
@pytest.mark.parametrize("compiles", [False, True])
@torch.inference_mode()
def test_sizes_steps_and_prompts(device: torch.device, precision: Precision, compiles: bool) -> None:
    transformer = transformer_on(device, precision)
    if compiles:
        if device.type == "cpu":
            pytest.skip("takes minutes on a CPU")
        transformer.trunk.compile_blocks()
    replays = ReplayedTransformer(transformer)
    for seed in range(2):  # recorded, then replayed
        for rows, columns in ((8, 8), (4, 12), (32, 32), (1, 3)):
            assert_same(replays, transformer, rows, columns, seed=seed)
        assert_same(replays, transformer, 8, 8, words=77, seed=seed)
        assert_same(replays, transformer, 8, 8, reference=40, seed=seed)
    assert len(replays._recordings) == 6


@torch.inference_mode()
def test_an_answer_stays_what_it_is_when_another_is_asked_for(device: torch.device) -> None:
    transformer = transformer_on(device)
    replays, told, tokens = ReplayedTransformer(transformer), told_to(transformer, 8, 8, 24), shown_to(transformer, 64)
    first = replays(tokens, told, 0, NOTHING, 64)
    kept = first.clone()
    for seed in range(3):
        replays(shown_to(transformer, 64, seed), told, 1, NOTHING, 64)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("precision", ["whole", "fp8", "nf4"])
@torch.inference_mode()
def test_weights_that_change_where_they_are(device: torch.device, precision: Precision) -> None:
    transformer = transformer_on(device, precision)
    replays, told, tokens = ReplayedTransformer(transformer), told_to(transformer, 8, 8, 24), shown_to(transformer, 64)
    layer = layer_at(transformer, "trunk.singles.1.into")
    weights, answers = [numbers(device, seed) for seed in (1, 2)], []
    for weight in (*weights, weights[0]):  # as it is, with a LoRA, and without
        layer.fill(0, weight, None)
        assert_same(replays, transformer, 8, 8)
        answers.append(replays(tokens, told, 0, NOTHING, 64))
    assert torch.equal(answers[0], answers[2])
    assert not torch.equal(answers[0], answers[1])
    assert len(replays._recordings) == 1


def numbers(device: torch.device, seed: int) -> torch.Tensor:
    """The rows of queries of a layer."""
    return 0.1 * torch.randn(128, 128, generator=torch.Generator().manual_seed(seed)).to(device)


@torch.inference_mode()
def test_with_more_shapes_than_are_kept_the_one_asked_longest_ago_is_recorded_anew(device: torch.device) -> None:
    transformer = transformer_on(device)
    replays = ReplayedTransformer(transformer)
    for turn in range(2):
        for columns in range(1, MOST_KEPT + 4):
            assert_same(replays, transformer, 4, columns, seed=turn)
    assert len(replays._recordings) == MOST_KEPT


@torch.inference_mode()
def test_larger_pictures_pass_by(device: torch.device) -> None:
    transformer, control = transformer_on(device), control_on(device)
    replays, follows = ReplayedTransformer(transformer), ReplayedControl(control)
    rows = MOST_TOKENS // 32 + 1
    assert_same(replays, transformer, rows, 32)
    tokens, told = shown_to(control, rows * 32), told_to(control, rows, 32, 24)
    assert_equal(follows(tokens, control.map_in(tokens), told, 1), control(tokens, control.map_in(tokens), told, 1))
    assert not len(replays._recordings) + len(follows._recordings)


@torch.inference_mode()
def test_along_a_control(device: torch.device) -> None:
    transformer, control = transformer_on(device), control_on(device)
    replays, follows = ReplayedTransformer(transformer), ReplayedControl(control)
    for seed, strength in ((0, 0.7), (1, 0.3), (2, 1.0)):  # recorded, then replayed
        for rows, columns in ((8, 8), (4, 12)):
            told, other_told = told_to(transformer, rows, columns, 24, seed=seed), told_to(control, rows, columns, 24)
            tokens = shown_to(transformer, rows * columns, seed)
            seen = control.map_in(shown_to(control, rows * columns, seed + 10))
            for step in (0, 1):
                after, expected = (ask(tokens, seen, other_told, step) for ask in (follows, control))
                assert_equal(after, expected)
                given = told, step, after.times(strength), rows * columns
                assert torch.equal(replays(tokens, *given), transformer(tokens, *given))
                assert_same(replays, transformer, rows, columns, seed=seed)  # without one in between
    assert len(follows._recordings) == 2
    assert len(replays._recordings) == 4


def assert_equal(one: Residuals, other: Residuals) -> None:
    for ours, expected in ((one.doubles, other.doubles), (one.singles, other.singles)):
        assert ours
        assert all(map(torch.equal, ours, expected))


@torch.inference_mode()
def test_a_step_is_recorded_while_another_thread_uses_the_gpu(gpu: torch.device) -> None:
    transformer, broken, is_over = transformer_on(gpu), list[BaseException](), Event()
    replays = ReplayedTransformer(transformer)

    def use() -> None:
        """As the thread that finishes pictures does: memory, copies, waits."""
        stream = torch.cuda.Stream(gpu)  # type: ignore[no-untyped-call]
        try:
            size = 1
            while not is_over.is_set():
                size = size % 64 + 1
                with torch.cuda.stream(stream):
                    made = torch.ones(size << 20, device=gpu)
                    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                    event.record()
                event.query()  # type: ignore[no-untyped-call]
                event.synchronize()
                assert float(made.sum()) == size << 20
        except BaseException as error:
            broken.append(error)

    thread = Thread(target=use)
    thread.start()
    try:
        for columns in range(1, 30):
            assert_same(replays, transformer, 4, columns)
    finally:
        is_over.set()
        thread.join()
    assert not broken


@torch.inference_mode()
@pytest.mark.usefixtures("gpu")
def test_on_a_gpu_that_is_not_the_current_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    transformer = transformer_on(torch.device("cuda", 1 - torch.cuda.current_device()))
    assert_same(ReplayedTransformer(transformer), transformer, 8, 8)


@torch.inference_mode()
def test_what_is_asked_here_is_what_a_transformer_answers(device: torch.device) -> None:
    """Of the transformer itself, which is what others are held to above."""
    transformer = transformer_on(device)
    for reference in (0, 40):
        assert_same(transformer, transformer, 8, 8, reference=reference)
