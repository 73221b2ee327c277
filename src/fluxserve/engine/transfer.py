"""Between the host and a device, without waiting: a GPU draws on while numbers come and go, and the host is a step
ahead of it, so that it never has to wait for the host either."""

from collections import deque

import torch

from fluxserve.engine.png import Pixels


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host's. From memory that the system may move, CUDA would copy only when it has done all else."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Arriving:
    """Pixels on their way to the host: (height, width, 3) bytes."""

    def __init__(self, levels: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if levels.device.type == "cuda":
            self._levels = torch.empty(levels.shape, dtype=levels.dtype, pin_memory=True)
            self._levels.copy_(levels, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(levels.device))  # the current device may be another
        else:
            self._levels = levels.cpu()

    def __call__(self) -> Pixels:
        """Waits for them."""
        if self._event is not None:
            self._event.synchronize()
        pixels: Pixels = self._levels.numpy()
        return pixels


class Lead:
    """Holds the host to a lead of one step: a caller's wish to cancel, and what is told of progress, are of now."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._begun: deque[torch.cuda.Event] = deque()

    def step(self) -> None:
        """Called when a step has been launched."""
        if self._device.type != "cuda":
            return
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        self._begun.append(event)
        if len(self._begun) > 1:
            self._begun.popleft().synchronize()
