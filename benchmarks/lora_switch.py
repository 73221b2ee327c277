"""What a job costs more because its LoRA is another one than the job's before.

    python -m benchmarks.lora_switch [--jobs 24] [--threads 2]

The same jobs (dev, 25 steps, 256x256, one LoRA each) on both sides, in one process each, taking turns. The LoRAs are
those that ship; every file has been read once before, so that the disk is in nobody's figures.

    one       every job has the same LoRA
    kept      every job has another one than the job before, of as many as are kept loaded
    read      every job has one that must be read from its file first: more than are kept, in turn

    ours      the server's engine
    plain     FluxPipeline, with load_lora_weights before a job and unload_lora_weights after it where the LoRA changes
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, Result, this_machine
from fluxserve.domain.catalog import ANNOTATORS, FAMILIES, LORA_FILES, LORAS, MODELS
from fluxserve.domain.generation import Generation, Lora, TextToImage
from fluxserve.executors.workers import mini_folder

SIDE = 256
STEPS = MODELS["flux1-dev"].default_steps
GUIDANCE = MODELS["flux1-dev"].default_guidance
IN_TURN = LORAS[:12]  # more than the engine keeps
KEPT = 4  # in turn: fewer than that
TARGET = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=24, help="of each kind, on each side")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="torch threads on each side")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures are written")
    chosen = parser.parse_args()
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    machine, spawn = this_machine(), multiprocessing.get_context("spawn")
    for name in IN_TURN:
        _file(name).read_bytes()
    orders = {"one": IN_TURN[:1], "kept": IN_TURN[:KEPT], "read": IN_TURN}
    taken: dict[tuple[str, str], list[float]] = {(kind, who): [] for kind in orders for who in ("ours", "plain")}
    with ProcessPoolExecutor(1, spawn) as ours, ProcessPoolExecutor(1, spawn) as plain:
        for start in range(0, chosen.jobs, len(IN_TURN)):
            for kind, order in orders.items():
                count = min(len(IN_TURN), chosen.jobs - start)
                jobs = [order[number % len(order)] for number in range(start, start + count)]
                warm_up = order if kind != "read" else order[:1]
                for draw, side, who in ((draw_ours, ours, "ours"), (draw_plainly, plain, "plain")):
                    taken[kind, who] += side.submit(draw, warm_up, jobs, chosen.threads).result()
    Result("lora_switch", figures(taken), notes(chosen), machine).show_and_write(chosen.results)


def figures(taken: dict[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    seconds = {key: statistics.median(values) for key, values in taken.items()}
    return [
        {
            "LoRA": kind,
            "ours s": round(seconds[kind, "ours"], 4),
            "plain s": round(seconds[kind, "plain"], 4),
            "ours / ours, one": round(seconds[kind, "ours"] / seconds["one", "ours"], 3),
            "target": None if kind == "one" else TARGET,
            "plain / plain, one": round(seconds[kind, "plain"] / seconds["one", "plain"], 3),
            "ours / plain": round(seconds[kind, "ours"] / seconds[kind, "plain"], 3),
        }
        for kind in ("one", "kept", "read")
    ]


def notes(chosen: argparse.Namespace) -> list[str]:
    return [
        f"Medians of {chosen.jobs} jobs of each kind on each side; {STEPS} steps at {SIDE}x{SIDE}; {chosen.threads} "
        f"torch threads; {len(IN_TURN)} of the LoRAs that ship, {KEPT} of them in turn where they are kept.",
        "Ours merges the LoRA into the weights, plain draws with it beside them. The plain side's time ends with the "
        "decoded picture, as ours does.",
    ]


# ---------------------------------------------------------------- the two sides

_kept: dict[str, Any] = {}  # of a side's process, from one call to the next


def draw_ours(warm_up: Sequence[str], jobs: list[str], threads: int) -> list[float]:
    """The seconds that each job takes, after one of a single step with each LoRA of the warm-up."""
    import torch

    from fluxserve.engine.annotators import Annotators
    from fluxserve.engine.engine import Engine
    from fluxserve.engine.loras import Loras, finder
    from fluxserve.engine.plan import Plan
    from fluxserve.engine.sources import Sources
    from fluxserve.engine.weights import Loader

    if not _kept:
        torch.set_num_threads(threads)
        sources = Sources(mini_folder())
        loader = Loader(FAMILIES["mini"], sources, torch.device("cpu"), [Plan(torch.float32)])
        annotators = Annotators(ANNOTATORS["mini"], sources, loader.device)
        loras = Loras(finder(LORA_FILES["mini"], sources, None))
        _kept["engine"] = Engine(loader, loras, annotators, safety=None)
    taken = []
    for number, (name, steps) in enumerate(_all(warm_up, jobs)):
        prompt = TextToImage(f"picture {number}")
        asked = Generation("flux1-dev", prompt, SIDE, SIDE, steps, GUIDANCE, number, lora=Lora(name, 1.0))
        began = time.perf_counter()
        _kept["engine"].generate(asked, {}, lambda *_: None, lambda: False)
        taken.append(time.perf_counter() - began)
    return taken[len(warm_up) :]


def _all(warm_up: Sequence[str], jobs: list[str]) -> list[tuple[str, int]]:
    """Every LoRA in order, and the steps to draw with it."""
    return [*((name, 1) for name in warm_up), *((name, STEPS) for name in jobs)]


def draw_plainly(warm_up: Sequence[str], jobs: list[str], threads: int) -> list[float]:
    """As `draw_ours`."""
    import torch

    from benchmarks import plain

    pipeline = plain.pipeline(mini_folder(), threads, "dev")
    taken = []
    for number, (name, steps) in enumerate(_all(warm_up, jobs)):
        began = time.perf_counter()
        if _kept.get("lora") != name:
            pipeline.unload_lora_weights()
            pipeline.load_lora_weights(_file(name), adapter_name=name)
            _kept["lora"] = name
        pipeline(
            prompt=f"picture {number}",
            width=SIDE,
            height=SIDE,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            max_sequence_length=plain.PROMPT_TOKENS,
            generator=torch.Generator("cpu").manual_seed(number),
            output_type="np",
        )
        taken.append(time.perf_counter() - began)
    return taken[len(warm_up) :]


def _file(name: str) -> Path:
    return mini_folder() / "loras" / f"{name}.safetensors"


if __name__ == "__main__":
    main()
