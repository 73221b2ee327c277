"""Steps that are CUDA graphs answer exactly as the transformer does, whatever changed since they were recorded."""

from threading import Event, Thread

import pytest
import torch

from fluxserve.engine.network import Precision, Replays, Residuals, Transformer
from fluxserve.engine.network.layers import layer_at
from fluxserve.engine.network.replay import MOST_KEPT, MOST_TOKENS
from tests.engine.network.networks import SHAPE, made, shown_to, told_to

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

NOTHING = Residuals()


def transformer_on(device: torch.device, precision: Precision = "whole") -> Transformer:
    network = made(Transformer, SHAPE, precision, 1, device, torch.bfloat16)
    assert isinstance(network, Transformer)
    return network


def assert_same(
    replays: Replays | Transformer,
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
def test_sizes_steps_and_prompts(gpu: torch.device, precision: Precision, compiles: bool) -> None:
    transformer = transformer_on(gpu, precision)
    if compiles:
        transformer.trunk.compile_blocks()
    replays = Replays(transformer)
    for seed in range(2):  # recorded, then replayed
        for rows, columns in ((8, 8), (4, 12), (32, 32), (1, 3)):
            assert_same(replays, transformer, rows, columns, seed=seed)
        assert_same(replays, transformer, 8, 8, words=77, seed=seed)
        assert_same(replays, transformer, 8, 8, reference=40, seed=seed)
    assert len(replays._recordings) == 6


@torch.inference_mode()
def test_an_answer_stays_what_it_is_when_another_is_asked_for(gpu: torch.device) -> None:
    transformer = transformer_on(gpu)
    replays, told, tokens = Replays(transformer), told_to(transformer, 8, 8, 24), shown_to(transformer, 64)
    first = replays(tokens, told, 0, NOTHING, 64)
    kept = first.clone()
    for seed in range(3):
        replays(shown_to(transformer, 64, seed), told, 1, NOTHING, 64)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("precision", ["whole", "fp8", "nf4"])
@torch.inference_mode()
def test_weights_that_change_where_they_are(gpu: torch.device, precision: Precision) -> None:
    transformer = transformer_on(gpu, precision)
    replays, told, tokens = Replays(transformer), told_to(transformer, 8, 8, 24), shown_to(transformer, 64)
    layer = layer_at(transformer, "trunk.singles.1.into")
    weights, answers = [numbers(gpu, seed) for seed in (1, 2)], []
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
def test_with_more_shapes_than_are_kept_the_one_asked_longest_ago_is_recorded_anew(gpu: torch.device) -> None:
    transformer = transformer_on(gpu)
    replays = Replays(transformer)
    for turn in range(2):
        for columns in range(1, MOST_KEPT + 4):
            assert_same(replays, transformer, 4, columns, seed=turn)
    assert len(replays._recordings) == MOST_KEPT


@torch.inference_mode()
def test_larger_pictures_and_those_with_a_control_pass_by(gpu: torch.device) -> None:
    transformer = transformer_on(gpu)
    replays = Replays(transformer)
    assert_same(replays, transformer, MOST_TOKENS // 32 + 1, 32)
    told, tokens = told_to(transformer, 8, 8, 24), shown_to(transformer, 64)
    more = Residuals(doubles=[torch.ones(1, 64, SHAPE.width, device=gpu, dtype=torch.bfloat16)])
    assert torch.equal(replays(tokens, told, 0, more, 64), transformer(tokens, told, 0, more, 64))
    assert not replays._recordings


@torch.inference_mode()
def test_a_step_is_recorded_while_another_thread_uses_the_gpu(gpu: torch.device) -> None:
    transformer, broken, is_over = transformer_on(gpu), list[BaseException](), Event()
    replays = Replays(transformer)

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
    assert_same(Replays(transformer), transformer, 8, 8)


@torch.inference_mode()
def test_what_is_asked_here_is_what_a_transformer_answers(device: torch.device) -> None:
    """Of the transformer itself, which is what others are held to above."""
    transformer = transformer_on(device)
    for reference in (0, 40):
        assert_same(transformer, transformer, 8, 8, reference=reference)
