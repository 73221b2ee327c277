"""FLUX.1 at full size, with networks of no particular numbers: what a plan foresees is what is then in use."""

import gc
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from benchmarks.random_flux import SIZES, World, engine_of
from fluxserve.domain.device import Device
from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.domain.speeds import SPEEDS, SpeedName
from fluxserve.engine.needs import FLUX1
from fluxserve.engine.network import Precision
from fluxserve.engine.plan import PROMPTS_KEPT, Place, Plan, plans
from fluxserve.engine.tuning import Tuning, tuned
from tests.gpu.test_engine import MINI, drawn

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:TensorFloat32 tensor cores:UserWarning"),
]

SIDE = math.isqrt(FLUX1.most_pixels) // 32 * 32
# One picture of words, of one prompt.
NEEDS = replace(FLUX1, prompts=FLUX1.prompts // PROMPTS_KEPT, most_pixels=SIDE**2, most_tokens=(SIDE // 16) ** 2 + 512)
LARGE = Device("cuda:0", "a card", 0, 10**12, has_bfloat16=True, has_fp8=True)


def plan_of(precision: Precision, t5: Place, modulation: Place) -> Plan:
    speeds: tuple[SpeedName, ...] = ("exact", "fast")
    all_plans = [plan for speed in speeds for plan in plans(NEEDS, LARGE, SPEEDS[speed])]
    wanted = (precision, t5, modulation)
    return next(plan for plan in all_plans if (plan.precision, plan.t5, plan.modulation) == wanted)


@pytest.fixture
def nothing_else(gpu: torch.device) -> Iterator[torch.device]:
    """A GPU with nothing on it that other tests left, nor of this one when it is over."""
    for _ in range(2):
        gc.collect()
        torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(gpu)
    yield gpu
    gc.collect()
    torch.cuda.empty_cache()


@pytest.mark.parametrize("compilation", ["off", "on"])
@pytest.mark.parametrize(
    ("precision", "t5", "modulation"),
    [
        ("whole", "device", "device"),
        ("whole", "host", "device"),
        ("whole", "host", "host"),
        ("fp8", "device", "device"),
        ("fp8", "host", "device"),
        ("fp8", "host", "host"),
        ("nf4", "host", "host"),
    ],
)
def test_as_much_is_in_use_at_most_as_the_plan_says(
    nothing_else: torch.device, precision: Precision, t5: Place, modulation: Place, compilation: str
) -> None:
    plan, before = plan_of(precision, t5, modulation), torch.cuda.memory_allocated(nothing_else)
    free, _ = torch.cuda.mem_get_info(nothing_else)
    if free < 1.1 * plan.peak:
        pytest.skip(f"this takes {plan.peak / 1e9:.1f} GB")
    tuning = tuned(nothing_else, SPEEDS["exact"], "on" if compilation == "on" else "off", "auto")
    draw_largest("full", plan, nothing_else, tuning, SIDE)
    assert torch.cuda.max_memory_allocated(nothing_else) - before == pytest.approx(plan.peak, rel=0.1)


def test_every_plan_draws_at_a_small_size(device: torch.device) -> None:
    for precision, place in (("whole", "device"), ("fp8", "host"), ("nf4", "host")):
        is_apart = place == "host"
        plan = Plan(torch.bfloat16, precision, place, place, is_tiled=is_apart)  # type: ignore[arg-type]
        draw_largest("small", plan, device, Tuning(), 256)


def draw_largest(size: str, plan: Plan, device: torch.device, tuning: Tuning, side: int) -> None:
    engine = engine_of(World(SIZES[size], MINI / "shared", device, plan.dtype), "dev", plan, tuning)
    words = TextToImage("a cat on the grass")
    asked = Generation("flux1-dev", words, side, side, steps=2, guidance_scale=3.5, seed=1)
    (pixels,) = drawn(engine, asked)
    assert pixels.shape == (side, side, 3)
