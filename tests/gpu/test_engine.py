"""A whole engine on a GPU: what it draws, and what it does with memory."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

from fluxserve.domain.catalog import ANNOTATORS, FAMILIES, LORA_FILES
from fluxserve.domain.generation import Control, Edit, Generation, ImageToImage, Inpaint, Lora, TextToImage, Variation
from fluxserve.domain.job import Job
from fluxserve.engine.annotators import Annotators
from fluxserve.engine.engine import Engine
from fluxserve.engine.line import Line
from fluxserve.engine.loras import Loras, finder
from fluxserve.engine.plan import Plan
from fluxserve.engine.png import Pixels
from fluxserve.engine.sources import Sources
from fluxserve.engine.tuning import Tuning
from fluxserve.engine.weights import Loader
from fluxserve.engine.worker import Worker
from tests.engine import family
from tests.engine.test_denoise import IMAGES
from tests.gpu.conftest import EngineOf, LoaderOf

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

MINI = Path(__file__).parents[2] / "models" / "mini"
MB = 1 << 20
CAT = Generation("flux1-dev", TextToImage("a red cat"), 256, 256, steps=4, guidance_scale=2.5, seed=7)
JOBS = [
    CAT,
    replace(CAT, width=512, height=128),
    replace(CAT, width=160, count=2),
    replace(CAT, model="flux1-schnell", guidance_scale=None),
    replace(CAT, kind=ImageToImage("a cat", "photo.png", 0.7)),
    replace(CAT, kind=Inpaint("a cat", "photo.png", "mask.png")),
    replace(CAT, kind=Variation("a cat", "photo.png")),
    replace(CAT, kind=Edit("a cat", "photo.png")),
    replace(CAT, control=Control("canny", "mask.png", 0.7, is_returned=True)),
    replace(CAT, lora=Lora("1", 1.0)),
]


def drawn(engine: Engine, generation: Generation) -> list[Pixels]:
    return [each.pixels for each in engine.generate(generation, IMAGES, lambda *_: None, lambda: False)]


def of_the_family_that_ships(device: torch.device, tuning: Tuning) -> Engine:
    sources = Sources(MINI)
    loader = Loader(FAMILIES["mini"], sources, device, [Plan(torch.float32)], tuning)
    return Engine(
        loader, Loras(finder(LORA_FILES["mini"], sources, None)), Annotators(ANNOTATORS["mini"], sources, device), None
    )


@pytest.mark.parametrize(
    "asked",
    [
        CAT,
        replace(CAT, model="flux1-schnell", guidance_scale=None),
        replace(CAT, kind=Edit("a blue cat", "photo.png")),
        replace(CAT, kind=Variation("a cat", "photo.png")),
        replace(CAT, lora=Lora("anime", 0.8)),
        replace(CAT, control=Control("depth", "photo.png", 0.7)),
        replace(CAT, control=Control("soft_edge", "photo.png", 0.7)),
    ],
)
def test_the_family_that_ships_draws_what_it_draws_on_a_cpu(device: torch.device, asked: Generation) -> None:
    tuning = Tuning(replays=True)
    (here,) = drawn(of_the_family_that_ships(device, tuning), asked)
    (there,) = drawn(of_the_family_that_ships(torch.device("cpu"), Tuning()), asked)
    assert np.abs(here.astype(int) - there).mean() < 1


def test_an_engine_draws_the_same_with_and_without_recorded_steps(loader_of: LoaderOf, engine_of: EngineOf) -> None:
    plain = engine_of(loader_of(Plan(torch.bfloat16)))
    replaying = engine_of(loader_of(Plan(torch.bfloat16), tuning=Tuning(replays=True)))
    for asked in (*JOBS, *JOBS[:3]):
        for ours, expected in zip(drawn(replaying, asked), drawn(plain, asked), strict=True):
            assert np.array_equal(ours, expected)


def test_fifty_mixed_jobs_leave_no_memory_in_use(
    loader_of: LoaderOf, engine_of: EngineOf, device: torch.device
) -> None:
    engine = engine_of(loader_of(Plan(torch.bfloat16), tuning=Tuning(replays=True)))
    in_use: list[int] = []
    for number in range(50):
        turn, asked = number // len(JOBS), JOBS[number % len(JOBS)]
        assert drawn(engine, replace(asked, seed=turn))
        in_use.append(allocated(device))
    first, second = in_use[: len(JOBS)], in_use[len(JOBS) : 2 * len(JOBS)]
    assert max(in_use[2 * len(JOBS) :]) <= max(*first, *second)


def allocated(device: torch.device) -> int:
    """Bytes that tensors have; none that can be counted on a CPU."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    return torch.cuda.memory_allocated(device)


def build_larger(folder: Path, mini_folder: Path) -> None:
    """A member of the untaught family with five hundred megabytes of weights in float32."""
    (folder / "shared").symlink_to(mini_folder / "shared")
    FluxTransformer2DModel(
        in_channels=family.CHANNELS, num_layers=2, num_single_layers=3, attention_head_dim=128, num_attention_heads=8,
        joint_attention_dim=family.WIDTH, pooled_projection_dim=family.WIDTH, guidance_embeds=True,
    ).save_pretrained(folder / "dev" / "transformer")  # fmt: skip
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "dev" / "scheduler")


def test_when_memory_runs_out_the_job_is_drawn_by_the_smaller_plan(
    mini_folder: Path, tmp_path: Path, gpu: torch.device, engine_of: EngineOf
) -> None:
    build_larger(tmp_path, mini_folder)
    plans = [Plan(torch.float32), Plan(torch.bfloat16, "nf4", modulation="host", is_tiled=True)]
    engine = engine_of(Loader({"dev": family.MEMBERS["dev"]}, Sources(tmp_path), gpu, plans, Tuning(replays=True)))
    worker = Worker(Line(BytesIO(), BytesIO()))
    torch.cuda.empty_cache()
    most = torch.cuda.memory_reserved(gpu) + 400 * MB
    torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties(gpu).total_memory, gpu)
    try:
        pictures = worker._drawn(engine, Job("1", CAT, {}), lambda *_: None)
        assert "4 bits" in engine.plan
        (before,), (again,) = ([each.pixels for each in pictures], drawn(engine, CAT))
        assert np.array_equal(before, again)
        assert torch.cuda.memory_reserved(gpu) <= most
        assert not engine.shrink()  # there is no smaller one
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, gpu)
