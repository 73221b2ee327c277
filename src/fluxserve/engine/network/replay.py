"""A step of a small picture as a CUDA graph: its thousand kernels are launched as one.

At 512x512 and below a GPU is done with a kernel before the next one is launched, and waits. A graph holds addresses,
not values: what a step is shown is copied to where the graph looks, and weights may change in place, as LoRAs do it.
"""

from dataclasses import dataclass

import torch

from fluxserve.engine.kept import Kept
from fluxserve.engine.network.transformer import Residuals, Transformer
from fluxserve.engine.network.trunk import Told

MOST_TOKENS = 1024  # of an image: 512x512. Larger ones keep a GPU busy by themselves
MOST_KEPT = 8  # graphs
WARM_UPS = 3  # before a recording: kernels choose themselves and ask for memory at their first runs

Key = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    tokens: torch.Tensor
    told: Told
    answer: torch.Tensor


class Replays:
    """A transformer's: asked as the transformer is, it answers by replaying where it can.

    The graphs share their memory, since only one runs at a time."""

    def __init__(self, transformer: Transformer) -> None:
        self._transformer = transformer
        self._recordings: Kept[Key, _Recording] = Kept(MOST_KEPT)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(
        self, tokens: torch.Tensor, told: Told, step: int, residuals: Residuals, answered: int
    ) -> torch.Tensor:
        if tokens.shape[1] > MOST_TOKENS or residuals.doubles or residuals.singles:
            answer: torch.Tensor = self._transformer(tokens, told, step, residuals, answered)
            return answer
        key = (tokens.shape[1], told.words.shape[1], answered)
        recording = self._recordings.get(key, lambda: self._record(tokens, told, answered))
        recording.tokens.copy_(tokens)
        recording.told.words.copy_(told.words)
        recording.told.table.copy_(told.table)
        recording.told.modulation[0].copy_(told.modulation[step])
        recording.graph.replay()
        return recording.answer.clone()

    def _record(self, tokens: torch.Tensor, told: Told, answered: int) -> _Recording:
        shown = tokens.clone()
        held = Told(told.words.clone(), told.modulation[:1].clone(), told.table.clone())
        with torch.cuda.device(tokens.device):
            beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(WARM_UPS):
                    self._transformer(shown, held, 0, Residuals(), answered)
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            # Else what another thread, the one that finishes pictures, asks of the GPU meanwhile would end both.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                answer = self._transformer(shown, held, 0, Residuals(), answered)
        return _Recording(graph, shown, held, answer)
