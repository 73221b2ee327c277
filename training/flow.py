"""Teach the transformers: a base flow, then from it dev-mini (guidance built in) and schnell-mini (four steps).

    python -m training.flow base --minutes 90
    python -m training.flow dev --minutes 15
    python -m training.flow schnell --minutes 15

On a CPU with two cores or more, one process a core is fastest:

    python -m torch.distributed.run --nproc-per-node 2 -m training.flow base --minutes 90

Base: rectified flow on latents of the world's scenes, x_t = (1 - t) x_0 + t noise, velocity noise - x_0, as FLUX
(Esser et al., "Scaling Rectified Flow Transformers", 2024). Dev: guidance distillation, the student's one pass at
guidance w answers the teacher's two (Meng et al., "On Distillation of Guided Diffusion Models", 2023). Schnell:
progressive distillation, one step of the student answers several of the teacher (Salimans & Ho, 2022).
"""

import argparse
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

from training import captions, text, world
from training.sitting import (
    FAMILY,
    RUNS,
    Average,
    Sitting,
    device,
    is_first,
    mean_of_all,
    publish,
    rank,
    sit_together,
)
from training.vae import FOLDER as VAE_FOLDER
from training.vae import to_tensor

CONFIG = {
    "patch_size": 1,
    "in_channels": 128,  # 32 latent channels, packed 2x2
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 32,
    "num_attention_heads": 6,
    "joint_attention_dim": text.WIDTH,
    "pooled_projection_dim": text.WIDTH,
    "guidance_embeds": True,
    "axes_dims_rope": (8, 12, 12),
}
SCHEDULERS = {
    # As FLUX.1-dev's, for 64 tokens instead of 4096: more steps go to the noisy end.
    "dev": {
        "use_dynamic_shifting": True,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 64,
        "max_image_seq_len": 1024,
    },
    "schnell": {"shift": 1.0},
}
FORMATS = ((256, 256), (256, 256), (256, 256), (256, 256), (256, 256), (256, 256), (320, 192), (192, 320))
BATCH = 32
BASE_RATE = 1.5e-3
NEWTON_SCHULZ_STEPS = 4  # of Muon's orthogonalisation; a fifth changed nothing but the time
DISTIL_RATE = 3e-4
THING_WEIGHT = 3.0  # a token with a thing counts this many times one of bare background
SCHNELL_STEPS = 4
SCHNELL_GUIDANCE = 3.0
TEACHER_STEPS = 4  # of the teacher for one of schnell's
SHARD_BATCHES = 24  # batches of latents made at a time
REFRESH_EVERY = 80  # steps; a batch of new latents costs about ten of them


# ---------------------------------------------------------------- latents


@dataclass(frozen=True)
class Batch:
    """Scenes of one format and their packed latents, (n, tokens, 128)."""

    scenes: list[world.Scene]
    latents: torch.Tensor

    @property
    def rows(self) -> int:
        return self.scenes[0].height // world.GRID

    @property
    def columns(self) -> int:
        return self.scenes[0].width // world.GRID


class Shelf:
    """Encoded scenes, kept on disk: encoding costs ten times what a training step does, and latents can be reread.

    Holds at most `most` batches; `refresh` replaces the oldest by new ones, so that the world stays without end.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.path = RUNS / "latents.pt"
        self.batches: list[Batch] = []
        self._next = 0
        self._vae = AutoencoderKL.from_pretrained(VAE_FOLDER, torch_dtype=torch.float32).to(device()).eval()
        self._rng = np.random.default_rng()

    def load(self) -> None:
        """What an earlier sitting encoded with this very autoencoder."""
        if not self.path.exists():
            return
        kept = torch.load(self.path, weights_only=True)
        if kept["vae"] == self._fingerprint():
            self.batches = [
                Batch([world.from_plain(scene) for scene in scenes], latents) for scenes, latents in kept["batches"]
            ][: self.most]

    def save(self) -> None:
        if not is_first():
            return
        RUNS.mkdir(exist_ok=True)
        batches = [([asdict(scene) for scene in batch.scenes], batch.latents) for batch in self.batches]
        torch.save({"vae": self._fingerprint(), "batches": batches}, self.path)

    def refresh(self, count: int, *, plain: float) -> None:
        for _ in range(count):
            batch = self._encode(plain)
            if len(self.batches) < self.most:
                self.batches.append(batch)
            else:
                self.batches[self._next] = batch
            self._next = (self._next + 1) % self.most

    def any(self) -> Batch:
        return self.batches[self._rng.integers(len(self.batches))]

    @torch.no_grad()
    def _encode(self, plain: float) -> Batch:
        width, height = FORMATS[self._rng.integers(len(FORMATS))]
        scenes = [
            world.imagine(self._rng, held_out=False, plain=plain, width=width, height=height) for _ in range(BATCH)
        ]
        pictures = to_tensor(np.stack([world.paint(scene) for scene in scenes])).to(device())
        with torch.autocast(device().type, torch.bfloat16):
            mean = torch.cat([self._vae.encode(part).latent_dist.mean for part in torch.split(pictures, 8)])
        latents = (mean.float() - self._vae.config.shift_factor) * self._vae.config.scaling_factor
        return Batch(scenes, pack(latents).to(torch.bfloat16))

    def _fingerprint(self) -> float:
        return _fingerprint(self._vae.encoder)


def _fingerprint(model: torch.nn.Module) -> float:
    """A number that changes whenever the weights do."""
    return float(sum(weight.detach().double().abs().sum() for weight in model.parameters()))


def pack(latents: torch.Tensor) -> torch.Tensor:
    """(n, c, h, w) -> (n, h/2 * w/2, 4c): 2x2 neighbours become one token, in FLUX's order."""
    count, channels, height, width = latents.shape
    parts = latents.view(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(count, height // 2 * (width // 2), channels * 4)


def positions(rows: int, columns: int) -> torch.Tensor:
    """FLUX's image ids, (rows * columns, 3): (0, row, column)."""
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] = torch.arange(rows)[:, None]
    ids[..., 2] = torch.arange(columns)[None]
    return ids.view(-1, 3).to(device())


def thing_weights(batch: Batch) -> torch.Tensor:
    """How much each token's error counts, (n, tokens, 1), mean 1: things are the hard part."""
    weights = torch.ones(len(batch.scenes), batch.rows, batch.columns)
    for number, scene in enumerate(batch.scenes):
        for item in scene.items:
            top, left, side = item.top // world.GRID, item.left // world.GRID, item.side // world.GRID
            weights[number, top : top + side, left : left + side] = THING_WEIGHT
    weights = weights / weights.mean()
    return weights.view(len(batch.scenes), -1, 1).to(device())


# ---------------------------------------------------------------- one forward pass


def plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_unused: object, **_also_unused: object
) -> torch.Tensor:
    """Attention by two matrix products, without any mask: four times as fast as torch's own for some ninety tokens on
    a CPU."""
    weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
    mixed: torch.Tensor = weights @ value
    return mixed


@contextmanager
def quick_attention() -> Iterator[None]:
    """On a CPU, `plain_attention` for what runs inside: the transformer alone, since the text encoders need masks."""
    usual = torch.nn.functional.scaled_dot_product_attention
    if device().type == "cpu":
        torch.nn.functional.scaled_dot_product_attention = plain_attention
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = usual


@dataclass(frozen=True)
class Words:
    """A batch of texts as the transformer takes them."""

    sequence: torch.Tensor
    pooled: torch.Tensor


class Reader:
    """Captions to `Words`, by the frozen encoders."""

    def __init__(self) -> None:
        self.encoders = text.load()

    @torch.no_grad()
    def read(self, texts: list[str]) -> Words:
        with torch.autocast(device().type, torch.bfloat16):
            return Words(
                self.encoders.sequence(texts).to(torch.bfloat16),
                self.encoders.pooled(texts, shortest=True).to(torch.bfloat16),
            )

    def captions_of(self, batch: Batch, rng: np.random.Generator, *, unsaid: float) -> Words:
        """A fresh caption a scene; a share of them empty, which is what guidance is measured from."""
        return self.read(
            [
                "" if rng.random() < unsaid else captions.caption(scene, rng, says_background=rng.random() < 0.8)
                for scene in batch.scenes
            ]
        )


def velocity(
    model: FluxTransformer2DModel,
    noisy: torch.Tensor,
    t: torch.Tensor,
    words: Words,
    batch: Batch,
    guidance: torch.Tensor | None,
) -> torch.Tensor:
    """The model's answer at x_t = `noisy`; `t` (n,) in (0, 1]."""
    with quick_attention():
        answer: torch.Tensor = model(
            hidden_states=noisy.to(torch.bfloat16),
            timestep=t.to(torch.bfloat16),
            guidance=guidance,
            pooled_projections=words.pooled,
            encoder_hidden_states=words.sequence,
            txt_ids=torch.zeros(words.sequence.shape[1], 3, device=noisy.device),
            img_ids=positions(batch.rows, batch.columns),
            return_dict=False,
        )[0]
    return answer.float()


def noisy_times(count: int) -> torch.Tensor:
    """Times in (0, 1), (count,): logit-normal, a little to the noisy side, where things and places are decided.

    Rounded to bfloat16, which is what the network is told."""
    t = torch.sigmoid(0.6 + torch.randn(count))
    return t.to(torch.bfloat16).float().clamp(0.002, 0.998).to(device())


class Student:
    """A bfloat16 model, its float32 master weights, their optimizers and moving average.

    On CPUs this is about twice as fast as autocast, which converts every weight at every step. The blocks' matrices
    learn by Muon (Jordan et al., 2024), which brought the loss down faster than AdamW; all else learns by AdamW."""

    def __init__(self, model: FluxTransformer2DModel, rate: float, decay: float) -> None:
        self.master = model.float().to(device()).train().requires_grad_(True)
        self.model = copy.deepcopy(self.master).to(torch.bfloat16)
        self.pairs = list(zip(self.model.parameters(), self.master.parameters(), strict=True))
        named = list(self.master.named_parameters())
        matrices = [weight for name, weight in named if "transformer_blocks" in name and weight.ndim == 2]
        others = [weight for name, weight in named if "transformer_blocks" not in name or weight.ndim != 2]
        self.optimizers = (
            torch.optim.Muon(
                matrices, lr=rate, weight_decay=0.0, ns_steps=NEWTON_SCHULZ_STEPS, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        )
        self.average = Average(self.master, decay)

    def learn(self, sitting: Sitting, loss: torch.Tensor) -> None:
        self.model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        grads = mean_of_all(torch.cat([_flat_gradient(small) for small, _ in self.pairs]))
        sizes = [small.numel() for small, _ in self.pairs]
        for (_, master), grad in zip(self.pairs, torch.split(grads, sizes), strict=True):
            master.grad = grad.view_as(master)
        sitting.update(self.optimizers, float(loss.detach()), [master for _, master in self.pairs])
        with torch.no_grad():
            for small, master in self.pairs:
                small.copy_(master)
        self.average.update(self.master)

    def state(self) -> dict[str, Any]:
        return {
            "model": self.master.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average.weights,
            "updates": self.average.updates,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.master.load_state_dict(state["model"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.average.weights = {name: weight.to(device()) for name, weight in state["average"].items()}
        self.average.updates = state["updates"]
        with torch.no_grad():
            for small, master in self.pairs:
                small.copy_(master)

    def averaged(self) -> FluxTransformer2DModel:
        kept = copy.deepcopy(self.master)
        kept.load_state_dict(self.average.weights)
        return kept.to(torch.bfloat16).eval().requires_grad_(False)


def _flat_gradient(weight: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros(weight.numel(), device=weight.device) if weight.grad is None else weight.grad.float().flatten()


def untaught() -> FluxTransformer2DModel:
    """Every block starts as the identity (adaLN-zero, Peebles & Xie 2023)."""
    model = FluxTransformer2DModel(**CONFIG)
    with torch.no_grad():
        for name, part in model.named_modules():
            if (
                name.endswith(("norm.linear", "norm1.linear", "norm1_context.linear", "norm_out.linear"))
                or name == "proj_out"
            ):
                part.weight.zero_()
                part.bias.zero_()
    return model


# ---------------------------------------------------------------- the three stages


def train_base(minutes: float, plain: float) -> None:
    torch.manual_seed(0)
    shelf = Shelf(most=720)
    shelf.load()
    reader, rng = Reader(), np.random.default_rng()
    sitting = Sitting("base", minutes, BASE_RATE)
    state = sitting.load()
    student = Student(untaught() if state else _beginning(), BASE_RATE, decay=0.999)
    if state:
        student.restore(state)
    _reseed(sitting)
    while len(shelf.batches) < 8 * SHARD_BATCHES:
        shelf.refresh(SHARD_BATCHES, plain=plain)
        print(f"base: {len(shelf.batches) * BATCH} scenes encoded", flush=True)
    shelf.save()
    sitting.begin()
    one = torch.ones(BATCH, device=device())
    while sitting.lasts():
        if sitting.steps % REFRESH_EVERY == 0:
            shelf.refresh(1, plain=plain)
        batch = shelf.any()
        words = reader.captions_of(batch, rng, unsaid=0.1)
        clean = batch.latents.float().to(device())
        noise, t = torch.randn_like(clean), noisy_times(BATCH)
        at = t[:, None, None]
        answer = velocity(student.model, (1 - at) * clean + at * noise, t, words, batch, one)
        loss = (thing_weights(batch) * (answer - (noise - clean)) ** 2).mean()
        student.learn(sitting, loss)
        sitting.save(at_once=False, **student.state())
    sitting.save(**student.state())
    shelf.save()
    _write(student.averaged(), "base")


def _reseed(sitting: Sitting) -> None:
    """Other noise at every sitting and in every process."""
    torch.manual_seed(1000 * sitting.steps + rank())


def _beginning() -> FluxTransformer2DModel:
    """What the base starts from without a checkpoint: dev as it ships, which at guidance 1 is an earlier base."""
    if (FAMILY / "dev" / "transformer").exists():
        print("base: going on from the dev that ships", flush=True)
        return _read("dev")
    return untaught()


def train_dev(minutes: float) -> None:
    teacher = _read("base")
    shelf, reader, rng = _full_shelf(), Reader(), np.random.default_rng()
    student = Student(_read("base"), DISTIL_RATE, decay=0.995)
    sitting = Sitting("dev", minutes, DISTIL_RATE)
    taught_by = _fingerprint(teacher)
    if (state := sitting.load()) and state["teacher"] == taught_by:  # else the teacher has learned on: start from it
        student.restore(state)
    _reseed(sitting)
    nothing, one = reader.read([""] * BATCH), torch.ones(BATCH, device=device())
    while sitting.lasts():
        batch = shelf.any()
        words = reader.captions_of(batch, rng, unsaid=0.02)
        clean = batch.latents.float().to(device())
        noise, t = torch.randn_like(clean), noisy_times(BATCH)
        at = t[:, None, None]
        noisy = (1 - at) * clean + at * noise
        guidance = 1 + 4 * torch.rand(BATCH, device=device())
        with torch.no_grad():
            wanted = _guided(teacher, noisy, t, words, nothing, batch, one, guidance)
        answer = velocity(student.model, noisy, t, words, batch, guidance)
        student.learn(sitting, (thing_weights(batch) * (answer - wanted) ** 2).mean())
        sitting.save(at_once=False, teacher=taught_by, **student.state())
    sitting.save(teacher=taught_by, **student.state())
    _write(student.averaged(), "dev")


def _guided(
    teacher: FluxTransformer2DModel, noisy: torch.Tensor, t: torch.Tensor, words: Words, nothing: Words, batch: Batch,
    one: torch.Tensor, guidance: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    without = velocity(teacher, noisy, t, nothing, batch, one)
    return without + guidance[:, None, None] * (velocity(teacher, noisy, t, words, batch, one) - without)


def train_schnell(minutes: float) -> None:
    teacher = _read("dev")
    shelf, reader, rng = _full_shelf(), Reader(), np.random.default_rng()
    student = Student(_without_guidance(_read("dev")), DISTIL_RATE, decay=0.995)
    sitting = Sitting("schnell", minutes, DISTIL_RATE)
    taught_by = _fingerprint(teacher)
    if (state := sitting.load()) and state["teacher"] == taught_by:  # else the teacher has learned on: start from it
        student.restore(state)
    _reseed(sitting)
    guidance = torch.full((BATCH,), SCHNELL_GUIDANCE, device=device())
    length = 1 / SCHNELL_STEPS
    while sitting.lasts():
        batch = shelf.any()
        words = reader.captions_of(batch, rng, unsaid=0.02)
        clean = batch.latents.float().to(device())
        start = torch.randint(1, SCHNELL_STEPS + 1, (BATCH,), device=device()) * length
        at = start[:, None, None]
        begin = (1 - at) * clean + at * torch.randn_like(clean)
        with torch.no_grad():
            end = begin
            for step in range(TEACHER_STEPS):
                t = start - step * length / TEACHER_STEPS
                end = end - velocity(teacher, end, t, words, batch, guidance) * length / TEACHER_STEPS
        wanted = (begin - end) / length
        answer = velocity(student.model, begin, start, words, batch, None)
        student.learn(sitting, (thing_weights(batch) * (answer - wanted) ** 2).mean())
        sitting.save(at_once=False, teacher=taught_by, **student.state())
    sitting.save(teacher=taught_by, **student.state())
    _write(student.averaged(), "schnell")


def _without_guidance(dev: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """The same network for one fixed guidance: its embedding is a constant, so it moves into a bias."""
    schnell = FluxTransformer2DModel(**{**CONFIG, "guidance_embeds": False}).to(dev.dtype).to(dev.device)
    schnell.load_state_dict(dev.state_dict(), strict=False)
    embed = dev.time_text_embed
    with torch.no_grad():
        guidance = embed.time_proj(torch.full((1,), SCHNELL_GUIDANCE * 1000, device=dev.device)).to(dev.dtype)
        schnell.time_text_embed.timestep_embedder.linear_2.bias += embed.guidance_embedder(guidance)[0]
    return schnell


def _full_shelf() -> Shelf:
    shelf = Shelf(most=720)
    shelf.load()
    if not shelf.batches:
        shelf.refresh(4 * SHARD_BATCHES, plain=0.0)
    return shelf


def _read(member: str) -> FluxTransformer2DModel:
    folder = RUNS / "base" if member == "base" else FAMILY / member / "transformer"
    model = FluxTransformer2DModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    return model.to(device()).eval().requires_grad_(False)


def _write(model: FluxTransformer2DModel, member: str) -> None:
    if not is_first():
        return
    if member == "base":
        publish(model, RUNS / "base")
        return
    publish(model, FAMILY / member / "transformer")
    FlowMatchEulerDiscreteScheduler(**SCHEDULERS[member]).save_pretrained(FAMILY / member / "scheduler")


def main(arguments: Iterator[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("base", "dev", "schnell"))
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--plain", type=float, default=0.1, help="share of scenes that are one big thing in the centre")
    chosen = parser.parse_args(list(arguments) if arguments else None)
    sit_together()
    match chosen.stage:
        case "base":
            train_base(chosen.minutes, chosen.plain)
        case "dev":
            train_dev(chosen.minutes)
        case "schnell":
            train_schnell(chosen.minutes)


if __name__ == "__main__":
    main()
