"""A step of a small picture as a CUDA graph: its thousand kernels are launched as one.

At 512x512 and below a GPU is done with a kernel before the next one is launched, and waits. A graph holds addresses,
not values: what a step is shown is copied to where the graph looks, and weights may change in place, as LoRAs do it.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from fluxserve.engine.kept import Kept
from fluxserve.engine.network.control_network import ControlNetwork
from fluxserve.engine.network.transformer import Residuals, Transformer
from fluxserve.engine.network.trunk import Told

MOST_TOKENS = 1024  # of an image: 512x512. Larger ones keep a GPU busy by themselves
MOST_KEPT = 8  # graphs of a network
WARM_UPS = 3  # before a recording: kernels choose themselves and ask for memory at their first runs

Step = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]
"""What a network makes of tensors, by their shapes alone."""


class ReplayedTransformer:
    """Asked as the transformer is, it answers by replaying where it can."""

    def __init__(self, transformer: Transformer) -> None:
        self._transformer = transformer
        self._recordings = Recordings()

    def __call__(
        self, tokens: torch.Tensor, told: Told, step: int, residuals: Residuals, answered: int
    ) -> torch.Tensor:
        doubles = len(residuals.doubles)

        def ask(shown: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            tokens, words, modulation, table, *added = shown
            after = Residuals(added[:doubles], added[doubles:])
            return [self._transformer(tokens, Told(words, modulation, table), 0, after, answered)]

        if tokens.shape[1] > MOST_TOKENS:
            answer: torch.Tensor = self._transformer(tokens, told, step, residuals, answered)
            return answer
        shown = [tokens, *_of_step(told, step), *residuals.doubles, *residuals.singles]
        return self._recordings.replay((answered, doubles), ask, shown)[0]


class ReplayedControl:
    """Asked as the control network is, it answers by replaying where it can."""

    def __init__(self, network: ControlNetwork) -> None:
        self._network = network
        self._recordings = Recordings()

    def __call__(self, tokens: torch.Tensor, seen: torch.Tensor, told: Told, step: int) -> Residuals:
        def ask(shown: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            tokens, seen, words, modulation, table = shown
            residuals = self._network(tokens, seen, Told(words, modulation, table), 0)
            return [*residuals.doubles, *residuals.singles]

        if tokens.shape[1] > MOST_TOKENS:
            residuals: Residuals = self._network(tokens, seen, told, step)
            return residuals
        answers = self._recordings.replay(None, ask, [tokens, seen, *_of_step(told, step)])
        doubles = len(self._network.after_doubles)
        return Residuals(answers[:doubles], answers[doubles:])


def _of_step(told: Told, step: int) -> list[torch.Tensor]:
    return [told.words, told.modulation[step : step + 1], told.table]


@dataclass(frozen=True, slots=True)
class Recording:
    """Where a step looks, and where it leaves its answers."""

    shown: list[torch.Tensor]
    answers: list[torch.Tensor]
    replay: Callable[[], None]


class Recordings:
    """A network's graphs. They share their memory, since only one runs at a time."""

    def __init__(self) -> None:
        self._kept: Kept[Hashable, Recording] = Kept(MOST_KEPT)

    def replay(self, kind: Hashable, step: Step, shown: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What `step` makes of these. It is recorded once for each `kind` and their shapes, and not asked again."""
        key = (kind, *(tensor.shape for tensor in shown))
        recording = self._kept.get(key, lambda: self._record(step, [tensor.clone() for tensor in shown]))
        for place, tensor in zip(recording.shown, shown, strict=True):
            place.copy_(tensor)
        recording.replay()
        return [answer.clone() for answer in recording.answers]

    def _record(self, step: Step, shown: list[torch.Tensor]) -> Recording:
        with torch.cuda.device(shown[0].device):
            beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(WARM_UPS):
                    step(shown)
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            # Else what another thread, the one that finishes pictures, asks of the GPU meanwhile would end both.
            with torch.cuda.graph(graph, self._pool, stream=beside, capture_error_mode="thread_local"):
                # Where cuBLAS works is in the graph's own memory: else another graph that goes takes it along.
                torch._C._cuda_clearCublasWorkspaces()
                answers = step(shown)
                torch._C._cuda_clearCublasWorkspaces()
        return Recording(shown, answers, graph.replay)

    @cached_property
    def _pool(self) -> torch.cuda._POOL_HANDLE:
        return torch.cuda.graph_pool_handle()

    def __len__(self) -> int:
        return len(self._kept)
