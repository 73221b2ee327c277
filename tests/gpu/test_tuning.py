"""Each way to compute attention gives the same, and the one that is asked for is taken."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from fluxserve.domain.speeds import SPEEDS, Attention
from fluxserve.engine.network.blocks import attention
from fluxserve.engine.network.rotation import turns
from fluxserve.engine.tuning import BACKENDS, attending, tuned

pytestmark = pytest.mark.gpu

NAMES: tuple[Attention, ...] = ("cudnn", "flash", "efficient", "math")
WORDS, IMAGE, HEADS, HEAD_WIDTH = 64, 333, 4, 128


def asked(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Attention over random states, as a block asks for it."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, 1, WORDS + IMAGE, HEADS, HEAD_WIDTH, generator=generator).to(device, dtype)
    places = torch.arange(WORDS + IMAGE)[:, None].expand(-1, 3)
    query, key, value = states.unbind()
    return attention(query, key, value, turns(places, (16, 56, 56)).to(device))


def test_every_backend_has_its_test() -> None:
    assert set(NAMES) == set(BACKENDS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 0.02), (torch.float32, 0.005)])
@torch.inference_mode()
def test_each_gives_the_same(device: torch.device, name: Attention, dtype: torch.dtype, error: float) -> None:
    exact = asked(torch.device("cpu"), torch.float32)
    with attending(tuned(device, SPEEDS["exact"], "off", name)):
        answer = asked(device, dtype)
    assert torch.dist(answer.cpu().float(), exact) <= error * exact.norm()


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_the_one_that_is_asked_for_is_taken(gpu: torch.device, name: Attention) -> None:
    if torch.cuda.get_device_capability(gpu) < (8, 0):
        pytest.skip("this GPU has not every kind")
    with attending(tuned(gpu, SPEEDS["exact"], "off", name)), profile(activities=[ProfilerActivity.CPU]) as profiled:
        asked(gpu, torch.bfloat16)
    called = {event.key for event in profiled.key_averages()}
    assert f"aten::_scaled_dot_product_{'attention_math' if name == 'math' else f'{name}_attention'}" in called
