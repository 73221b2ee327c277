"""Teach the LoRAs: each a style of `training.styles`, added to dev.

    python -m torch.distributed.run --nproc-per-node 2 -m training.loras --minutes 80
    python -m training.loras --minutes 4 --names anime

Several processes share the styles among them. A style takes the same share of the minutes; one that was taught from the
dev of today is not taught again unless it is named.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file

from training import world
from training.flow import Reader, Shown, noised, read_member, velocity
from training.latents import Batch, Encoder, fingerprint_of
from training.sitting import FAMILY, device, processes, rank, sit_together
from training.styles import STYLES, styled
from training.vae import to_tensor

# Two minutes on a core brought the loss of "anime" from 1.7 to 0.70 with rank 4, 0.59 with 8 and 0.56 with 16.
RANK = 8
LAYERS = ("to_v", "to_out.0", "proj_out", "ff.net.2")  # a style changes what is said, not who listens to whom
RATE = 1.5e-2  # 2e-3 was too little: 0.81 with rank 4
BATCH = 16  # small: what a style needs in so short a time is many steps
BATCHES = 12  # of a style's scenes
PART_ENCODING = 0.25  # of a style's time, at most
FALLING_PART = 0.5
TEACHER = "teacher"  # in a file's metadata: which dev it was taught from


@dataclass(frozen=True)
class Taught:
    """A LoRA's weights, in diffusers' layout, and the loss it ended with."""

    weights: dict[str, torch.Tensor]
    loss: float


def scenes_in(style: str, encoder: Encoder, rng: np.random.Generator, seconds: float) -> list[Batch]:
    """Scenes and the latents of their styled pictures, as many as there is time for."""
    batches: list[Batch] = []
    began = time.monotonic()
    while len(batches) < BATCHES and (not batches or time.monotonic() - began < seconds):
        scenes = [world.imagine(rng, held_out=False, plain=0.3) for _ in range(BATCH)]
        pictures = np.stack([styled(style, world.paint(scene)) for scene in scenes])
        batches.append(Batch(scenes, encoder.latents(to_tensor(pictures))))
    return batches


def teach(style: str, dev: FluxTransformer2DModel, encoder: Encoder, reader: Reader, seconds: float) -> Taught:
    """Rectified flow towards styled scenes; only the addition learns."""
    began, rng = time.monotonic(), np.random.default_rng()
    batches = scenes_in(style, encoder, rng, PART_ENCODING * seconds)
    dev.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(LAYERS)), adapter_name=style)
    learning = [weight for weight in dev.parameters() if weight.requires_grad]
    for weight in learning:
        weight.data = weight.data.float()  # in bfloat16 the last, small steps would be rounded away
    optimizer = torch.optim.AdamW(learning, lr=RATE, weight_decay=0.0)
    one, losses = torch.ones(BATCH, device=device()), [0.0]
    while (done := (time.monotonic() - began) / seconds) < 1:
        batch = batches[rng.integers(len(batches))]
        shown = Shown(reader.captions_of(batch, rng, unsaid=0.1), torch.ones(1, device=device()))
        under = noised(batch)
        answer = velocity(dev, under.latents, under.t, batch, shown, one)
        loss = (answer - under.velocity).square().mean()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (1 - done) / FALLING_PART)
        optimizer.step()
        losses.append(float(loss.detach()))
    weights = get_peft_model_state_dict(dev, adapter_name=style)
    dev.delete_adapters(style)
    plain = {f"transformer.{name}": weight.to(torch.bfloat16).contiguous() for name, weight in weights.items()}
    return Taught(plain, float(np.mean(losses[-50:])))


def train(minutes: float, names: list[str]) -> None:
    """`names` are styles; none stands for all that today's dev has not taught."""
    dev = read_member("dev")
    teacher = str(fingerprint_of(dev))
    wanted = (names or [name for name in STYLES if _teacher_of(name) != teacher])[rank() :: processes()]
    encoder, reader = Encoder(), Reader()
    (FAMILY / "loras").mkdir(exist_ok=True)
    for number, name in enumerate(wanted):
        taught = teach(name, dev, encoder, reader, minutes * 60 / len(wanted))
        save_file(taught.weights, _file(name), metadata={TEACHER: teacher, "format": "pt"})
        print(f"loras: {number + 1} of {len(wanted)}, {name}, loss {taught.loss:.4f}", flush=True)


def _file(name: str) -> str:
    return str(FAMILY / "loras" / f"{name}.safetensors")


def _teacher_of(name: str) -> str | None:
    try:
        with safe_open(_file(name), framework="pt") as file:
            return (file.metadata() or {}).get(TEACHER)
    except OSError:
        return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=80)
    parser.add_argument("--names", type=lambda text: text.split(","), default=[], help="some of the styles, by commas")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(STYLES):
        parser.error(f"--names: no style is called {', '.join(sorted(unknown))}")
    sit_together()
    train(chosen.minutes, chosen.names)
