"""Measure the mini family on held-out prompts, against the bounds it must reach.

    python -m training.evaluate
    python -m training.evaluate --pictures 40 --members schnell

Prints a table, and puts it into the model card and ``benchmarks/results/mini_scores.json`` (see `training.card`).
"""

import argparse
import os
import platform
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from training import captions, card, judge, text, vae, world
from training.card import Record, Score
from training.measures import MEASURES
from training.sitting import FAMILY, device

BATCH = 8
BOUNDS = {  # measure -> its words, and what a drawing member must reach, in percent
    "nearest": ("of all things, the one named is the best match", 97),
    "thing": ("the same, and drawn in focus", 97),
    "colour": ("shape's colour", 97),
    "background": ("background", 97),
    "place": ("place", 95),
    "size": ("size", 90),
    "all": ("all at once", 88),
}
VAE_BOUND = 30  # decibels


@dataclass(frozen=True)
class Settings:
    """How a member is asked to draw."""

    steps: int
    guidance: float


DRAWING = {"schnell": Settings(steps=4, guidance=0.0), "dev": Settings(steps=25, guidance=3.5)}
MEMBERS = ("vae", *DRAWING)  # those that all others stand on


def evaluate(pictures: int, members: tuple[str, ...]) -> None:
    """Measure `members` on `pictures` scenes each; print, and publish in the card."""
    command = f"python -m training.evaluate --pictures {pictures} --members {','.join(members)}"
    records = []
    for member in members:
        records.append(Record(member, command, _machine(), _scores(member, pictures)))
    card.publish(records)
    print(card.table(records))


def _scores(member: str, pictures: int) -> tuple[Score, ...]:
    if member in MEASURES:
        return MEASURES[member](pictures)
    return _vae_scores(pictures) if member == "vae" else _drawing_scores(member, pictures)


# ---------------------------------------------------------------- drawing


def open_pipeline(member: str) -> FluxPipeline:
    """A member as FLUX's pipeline, from its folders, in float32."""
    encoders = text.load()
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(FAMILY / member / "scheduler"),
        vae=AutoencoderKL.from_pretrained(vae.FOLDER, torch_dtype=torch.float32),
        text_encoder=encoders.clip,
        tokenizer=encoders.clip_tokenizer,
        text_encoder_2=encoders.t5,
        tokenizer_2=encoders.t5_tokenizer,
        transformer=FluxTransformer2DModel.from_pretrained(FAMILY / member / "transformer", torch_dtype=torch.float32),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device())


def draw(member: str, prompts: list[str]) -> world.Pixels:
    """Each prompt drawn with its own seed, its number in the list: (n, 256, 256, 3)."""
    pipeline, settings = open_pipeline(member), DRAWING[member]
    began, drawn = time.monotonic(), []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        pictures = pipeline(
            prompt=batch,
            width=judge.SIDE,
            height=judge.SIDE,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            max_sequence_length=text.T5_TOKENS,
            generator=[torch.Generator().manual_seed(start + number) for number in range(len(batch))],
            output_type="np",
        ).images
        drawn.append(np.rint(pictures * 255).astype(np.uint8))
        done, seconds = start + len(batch), time.monotonic() - began
        print(f"{member}: {done} of {len(prompts)} pictures drawn in {seconds:.0f} s", flush=True)
    return np.concatenate(drawn)


# ---------------------------------------------------------------- measuring


def held_out_scenes(count: int) -> list[world.Scene]:
    """Scenes of one item that training never saw; always the same ones."""
    rng = np.random.default_rng(11)
    scenes: list[world.Scene] = []
    while len(scenes) < count:
        scene = world.imagine(rng, held_out=True)
        if scene.relation is None and scene.items[0].figure is None:
            scenes.append(scene)
    return scenes


def held_out_prompts(scenes: list[world.Scene]) -> list[str]:
    """What each is asked for with; always the same words."""
    rng = np.random.default_rng(12)
    return [captions.caption(scene, rng, says_background=True) for scene in scenes]


def marks(scene: world.Scene, verdict: judge.Verdict) -> dict[str, bool]:
    """What of the scene the picture got right. Where nothing is drawn in focus, only the background and the best match
    can be."""
    item = scene.items[0]
    right = {
        "nearest": verdict.name == item.name,
        "thing": verdict.is_drawn and verdict.name == item.name,
        "background": verdict.background == scene.background,
        "place": verdict.is_drawn and verdict.place == scene.place,
        "size": verdict.is_drawn and verdict.size == scene.size,
    }
    if item.colour is not None:
        right["colour"] = verdict.is_drawn and verdict.colour == item.colour
    return {**right, "all": all(right.values())}


def shares(scenes: list[world.Scene], pictures: world.Pixels) -> dict[str, float]:
    """In how many percent of the pictures each measure is right."""
    return shares_by(scenes, judge.verdicts(pictures))


def shares_by(scenes: list[world.Scene], verdicts: list[judge.Verdict]) -> dict[str, float]:
    """The same of pictures that are judged already."""
    found = defaultdict(list)
    for scene, verdict in zip(scenes, verdicts, strict=True):
        for measure, is_right in marks(scene, verdict).items():
            found[measure].append(is_right)
    return {measure: 100 * sum(rights) / len(rights) for measure, rights in found.items()}


def _drawing_scores(member: str, count: int) -> tuple[Score, ...]:
    scenes = held_out_scenes(count)
    percent = shares(scenes, draw(member, held_out_prompts(scenes)))
    return tuple(
        Score(words, "%", bound, percent[measure]) for measure, (words, bound) in BOUNDS.items() if measure in percent
    )


def _vae_scores(count: int) -> tuple[Score, ...]:
    """PSNR, and the ceiling that the autoencoder sets for every member's marks."""
    model = AutoencoderKL.from_pretrained(vae.FOLDER, torch_dtype=torch.float32).to(device())
    scenes = held_out_scenes(count)
    percent = shares(scenes, _there_and_back(model, np.stack([world.paint(scene) for scene in scenes])))
    return (
        Score("PSNR, held-out scenes", "dB", VAE_BOUND, vae.psnr(model)),
        Score("ceiling: thing still told after a round trip", "%", None, percent["thing"]),
        Score("ceiling: all at once after a round trip", "%", None, percent["all"]),
    )


@torch.no_grad()
def _there_and_back(model: AutoencoderKL, pictures: world.Pixels) -> world.Pixels:
    again = []
    for start in range(0, len(pictures), BATCH):
        batch = vae.to_tensor(pictures[start : start + BATCH]).to(model.device)
        decoded = model.decode(model.encode(batch).latent_dist.mean).sample.clamp(-1, 1)
        again.append(((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        print(f"vae: {start + len(batch)} of {len(pictures)} pictures there and back", flush=True)
    return np.concatenate(again)


def _machine() -> dict[str, str]:
    machine = {"CPU": _cpu_model(), "cores": str(os.cpu_count()), "torch": torch.__version__}
    return {**machine, "GPU": torch.cuda.get_device_name()} if torch.cuda.is_available() else machine


def _cpu_model() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _members(chosen: str) -> tuple[str, ...]:
    members = tuple(chosen.split(","))
    if unknown := set(members) - {*MEMBERS, *MEASURES}:
        raise argparse.ArgumentTypeError(
            f"no member is called {', '.join(unknown)}; there are {', '.join((*MEMBERS, *MEASURES))}"
        )
    return members


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--members", type=_members, default=MEMBERS, help=f"some of {','.join((*MEMBERS, *MEASURES))}")
    chosen = parser.parse_args()
    evaluate(chosen.pictures, chosen.members)
