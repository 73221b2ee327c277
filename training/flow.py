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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxControlNetModel, FluxTransformer2DModel

from training import captions, text, world
from training.latents import BATCH, B, Batch, Shelf, fingerprint_of, scenes_shelf
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
# As FLUX.1-dev's, for 64 tokens instead of 4096: more steps go to the noisy end.
DYNAMIC = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 64,
    "max_image_seq_len": 1024,
}
SCHEDULERS = {"schnell": {"shift": 1.0}, "dev": DYNAMIC, "fill": DYNAMIC, "edit": DYNAMIC}  # of the members that ship
BASE_RATE = 1.5e-3
NEWTON_SCHULZ_STEPS = 4  # of Muon's orthogonalisation; a fifth changed nothing but the time
DISTIL_RATE = 3e-4
LEAST_GUIDANCE, MOST_GUIDANCE = 1.0, 5.0
THING_WEIGHT = 3.0  # a token with a thing counts this many times one of bare background
SCHNELL_STEPS = 4
SCHNELL_GUIDANCE = 3.0
# Of the captions, those that T5 alone is told. From CLIP's one vector two things can't be told from one of them twice,
# and a picture's tokens have no part in it; without this share the network reads things from it and nowhere else.
UNPOOLED = 0.5
# Of the batches, those that T5 is told second, after a prompt that says nothing: there an image prompt's tokens stand.
SECOND = 0.25
TEACHER_STEPS = 4  # of the teacher for one of schnell's
REFRESH_EVERY = 60  # steps; a batch of new latents costs about ten of them


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
    def read(self, texts: list[str], pooled: list[str] | None = None) -> Words:
        """`pooled` are the texts that CLIP reads, if not the same ones."""
        with torch.autocast(device().type, torch.bfloat16):
            return Words(
                self.encoders.sequence(texts).to(torch.bfloat16),
                self.encoders.pooled(pooled or texts, shortest=True).to(torch.bfloat16),
            )

    def captions_of(self, batch: Batch, rng: np.random.Generator, *, unsaid: float, unpooled: float = 0.0) -> Words:
        """A fresh caption a scene; a share of them empty, which is what guidance is measured from. Another share is
        told to T5 alone."""
        texts = [
            "" if rng.random() < unsaid else captions.caption(scene, rng, says_background=rng.random() < 0.8)
            for scene in batch.scenes
        ]
        return self.read(texts, ["" if rng.random() < unpooled else text for text in texts])

    def captions_after_nothing(self, batch: Batch, rng: np.random.Generator, *, unsaid: float) -> Words:
        """The same after an opening alone, "a photo of" or nothing at all, which is all that CLIP is told."""
        said = self.captions_of(batch, rng, unsaid=unsaid)
        before = self.read([captions.OPENINGS[rng.integers(len(captions.OPENINGS))] for _ in batch.scenes])
        return Words(torch.cat((before.sequence, said.sequence), dim=1), before.pooled)


@dataclass(frozen=True)
class Shown:
    """What the transformer is shown of a batch beside the noise.

    `weights` is how much each token's error counts, (n, tokens, 1), mean 1. `channels` are more of them for each token,
    `reference` another picture's tokens, of the same format."""

    words: Words
    weights: torch.Tensor
    channels: torch.Tensor | None = None
    reference: torch.Tensor | None = None


def velocity(
    model: FluxTransformer2DModel,
    noisy: torch.Tensor,
    t: torch.Tensor,
    batch: Batch,
    shown: Shown,
    guidance: torch.Tensor | None,
) -> torch.Tensor:
    """The model's answer at x_t = `noisy`; `t` (n,) in (0, 1]."""
    states, ids = noisy, positions(batch.rows, batch.columns)
    if shown.channels is not None:
        states = torch.cat((states, shown.channels), dim=2)
    if shown.reference is not None:
        states = torch.cat((states, shown.reference.to(states)), dim=1)
        ids = torch.cat((ids, ids + torch.tensor((1, 0, 0), device=ids.device)))
    with quick_attention():
        answer: torch.Tensor = model(
            hidden_states=states.to(torch.bfloat16),
            timestep=t.to(torch.bfloat16),
            guidance=guidance,
            pooled_projections=shown.words.pooled,
            encoder_hidden_states=shown.words.sequence,
            txt_ids=torch.zeros(shown.words.sequence.shape[1], 3, device=noisy.device),
            img_ids=ids,
            return_dict=False,
        )[0]
    return answer[:, : noisy.shape[1]].float()


def noisy_times(count: int) -> torch.Tensor:
    """Times in (0, 1), (count,): logit-normal, a little to the noisy side, where things and places are decided.

    Rounded to bfloat16, which is what the network is told."""
    t = torch.sigmoid(0.6 + torch.randn(count))
    return t.to(torch.bfloat16).float().clamp(0.002, 0.998).to(device())


@dataclass(frozen=True)
class Noised:
    """A batch's latents under noise at times `t`, (n,), and the velocity that leads from them to the noise."""

    latents: torch.Tensor
    t: torch.Tensor
    velocity: torch.Tensor


def noised(batch: Batch) -> Noised:
    clean = batch.latents.float().to(device())
    noise, t = torch.randn_like(clean), noisy_times(len(clean))
    at = t[:, None, None]
    return Noised((1 - at) * clean + at * noise, t, noise - clean)


M = TypeVar("M", FluxTransformer2DModel, FluxControlNetModel)


class Student(Generic[M]):
    """A bfloat16 model, its float32 master weights, their optimizers and moving average.

    On CPUs this is about twice as fast as autocast, which converts every weight at every step. The blocks' matrices
    learn by Muon (Jordan et al., 2024), which brought the loss down faster than AdamW; all else learns by AdamW."""

    def __init__(self, model: M, rate: float, decay: float) -> None:
        self.master: M = model.float().to(device()).train().requires_grad_(True)
        self.model: M = copy.deepcopy(self.master).to(torch.bfloat16)
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

    def averaged(self) -> M:
        kept: M = copy.deepcopy(self.master)
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


# ---------------------------------------------------------------- two ways to learn


def teach_flow(
    name: str,
    minutes: float,
    shelf: Shelf[B],
    beginning: Callable[[], FluxTransformer2DModel],
    show: Callable[[B, float], Shown],
    rate: float,
) -> None:
    """Rectified flow towards the shelf's latents. `show` is told which share of the words to leave out."""
    student = Student(beginning(), rate, decay=0.999)
    sitting = Sitting(name, minutes, rate)
    if state := sitting.load():
        student.restore(state)
    reseed(sitting)
    one = torch.ones(BATCH, device=device())
    while sitting.lasts():
        if sitting.steps % REFRESH_EVERY == 0:
            shelf.refresh(1)
        batch = shelf.any()
        shown = show(batch, 0.1)
        under = noised(batch)
        answer = velocity(student.model, under.latents, under.t, batch, shown, one)
        student.learn(sitting, (shown.weights * (answer - under.velocity) ** 2).mean())
        sitting.save(at_once=False, **student.state())
    sitting.save(**student.state())
    shelf.save()
    write_member(student.averaged(), name)


def teach_guidance(
    name: str, minutes: float, teacher_name: str, shelf: Shelf[B], show: Callable[[B, float], Shown], nothing: Words
) -> None:
    """One pass at a guidance scale answers the teacher's two. `nothing` is a batch of empty prompts."""
    teacher = read_member(teacher_name)
    student = Student(_deaf_to_guidance(read_member(teacher_name)), DISTIL_RATE, decay=0.995)
    sitting = Sitting(name, minutes, DISTIL_RATE)
    taught_by = fingerprint_of(teacher)
    if (state := sitting.load()) and state["teacher"] == taught_by:  # else the teacher has learned on: start from it
        student.restore(state)
    reseed(sitting)
    one = torch.ones(BATCH, device=device())
    while sitting.lasts():
        batch = shelf.any()
        shown = show(batch, 0.02)
        under = noised(batch)
        guidance = LEAST_GUIDANCE + (MOST_GUIDANCE - LEAST_GUIDANCE) * torch.rand(BATCH, device=device())
        with torch.no_grad():
            without = velocity(teacher, under.latents, under.t, batch, replace(shown, words=nothing), one)
            towards = velocity(teacher, under.latents, under.t, batch, shown, one) - without
            wanted = without + guidance[:, None, None] * towards
        answer = velocity(student.model, under.latents, under.t, batch, shown, guidance)
        student.learn(sitting, (shown.weights * (answer - wanted) ** 2).mean())
        sitting.save(at_once=False, teacher=taught_by, **student.state())
    sitting.save(teacher=taught_by, **student.state())
    write_member(student.averaged(), name)


def _deaf_to_guidance(model: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """The same answer at every guidance scale, that of 1: the only one a flow was taught. What it would say at others
    takes minutes to unlearn."""
    embed = model.time_text_embed
    with torch.no_grad():
        one = embed.time_proj(torch.full((1,), 1000.0, device=model.device)).to(model.dtype)
        constant = embed.guidance_embedder(one)[0]
        embed.guidance_embedder.linear_2.weight.zero_()
        embed.guidance_embedder.linear_2.bias.copy_(constant)
    return model


# ---------------------------------------------------------------- the three stages


def _show(reader: Reader) -> Callable[[Batch, float], Shown]:
    """Captions alone."""
    rng = np.random.default_rng()

    def show(batch: Batch, unsaid: float) -> Shown:
        if rng.random() < SECOND:
            words = reader.captions_after_nothing(batch, rng, unsaid=unsaid)
        else:
            words = reader.captions_of(batch, rng, unsaid=unsaid, unpooled=UNPOOLED)
        return Shown(words, thing_weights(batch))

    return show


def train_base(minutes: float, plain: float) -> None:
    torch.manual_seed(0)
    teach_flow("base", minutes, scenes_shelf(plain), _beginning, _show(Reader()), BASE_RATE)


def reseed(sitting: Sitting) -> None:
    """Other noise at every sitting and in every process."""
    torch.manual_seed(1000 * sitting.steps + rank())


def _beginning() -> FluxTransformer2DModel:
    """What the base starts from without a checkpoint: dev as it ships, which at guidance 1 is an earlier base."""
    if not (RUNS / "base.pt").exists() and (FAMILY / "dev" / "transformer").exists():
        print("base: going on from the dev that ships", flush=True)
        return read_member("dev")
    return untaught()


def train_dev(minutes: float) -> None:
    reader = Reader()
    teach_guidance("dev", minutes, "base", scenes_shelf(), _show(reader), reader.read([""] * BATCH))


def train_schnell(minutes: float) -> None:
    teacher = read_member("dev")
    shelf, show = scenes_shelf(), _show(Reader())
    student = Student(_without_guidance(read_member("dev")), DISTIL_RATE, decay=0.995)
    sitting = Sitting("schnell", minutes, DISTIL_RATE)
    taught_by = fingerprint_of(teacher)
    if (state := sitting.load()) and state["teacher"] == taught_by:  # else the teacher has learned on: start from it
        student.restore(state)
    reseed(sitting)
    guidance = torch.full((BATCH,), SCHNELL_GUIDANCE, device=device())
    length = 1 / SCHNELL_STEPS
    while sitting.lasts():
        batch = shelf.any()
        shown = show(batch, 0.02)
        clean = batch.latents.float().to(device())
        start = torch.randint(1, SCHNELL_STEPS + 1, (BATCH,), device=device()) * length
        at = start[:, None, None]
        begin = (1 - at) * clean + at * torch.randn_like(clean)
        with torch.no_grad():
            end = begin
            for step in range(TEACHER_STEPS):
                t = start - step * length / TEACHER_STEPS
                end = end - velocity(teacher, end, t, batch, shown, guidance) * length / TEACHER_STEPS
        wanted = (begin - end) / length
        answer = velocity(student.model, begin, start, batch, shown, None)
        student.learn(sitting, (shown.weights * (answer - wanted) ** 2).mean())
        sitting.save(at_once=False, teacher=taught_by, **student.state())
    sitting.save(teacher=taught_by, **student.state())
    write_member(student.averaged(), "schnell")


def _without_guidance(dev: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """The same network for one fixed guidance: its embedding is a constant, so it moves into a bias."""
    schnell = FluxTransformer2DModel(**{**CONFIG, "guidance_embeds": False}).to(dev.dtype).to(dev.device)
    schnell.load_state_dict(dev.state_dict(), strict=False)
    embed = dev.time_text_embed
    with torch.no_grad():
        guidance = embed.time_proj(torch.full((1,), SCHNELL_GUIDANCE * 1000, device=dev.device)).to(dev.dtype)
        schnell.time_text_embed.timestep_embedder.linear_2.bias += embed.guidance_embedder(guidance)[0]
    return schnell


def shortened(model: FluxTransformer2DModel, by: int) -> FluxTransformer2DModel:
    """Without `by` single blocks before its last, to leave room for the rest of the family. Most of what the base knows
    goes with them: a member that starts from it shortened learns for half an hour to know it again."""
    blocks = list(range(model.config.num_single_layers))
    kept = [*blocks[: -1 - by], blocks[-1]]
    short = FluxTransformer2DModel(**{**CONFIG, "num_single_layers": len(kept)})
    weights = {name: weight for name, weight in model.state_dict().items() if not name.startswith("single_")}
    for number, old in enumerate(kept):
        block = model.single_transformer_blocks[old].state_dict()
        weights |= {f"single_transformer_blocks.{number}.{name}": weight for name, weight in block.items()}
    short.load_state_dict(weights)
    return short.to(model.dtype).to(model.device)


def read_member(member: str) -> FluxTransformer2DModel:
    folder = FAMILY / member / "transformer" if member in SCHEDULERS else RUNS / member
    model = FluxTransformer2DModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    return model.to(device()).eval().requires_grad_(False)


def write_member(model: FluxTransformer2DModel, member: str) -> None:
    """Into the family, or, what only teaches others, beside the checkpoints."""
    if not is_first():
        return
    if member not in SCHEDULERS:
        publish(model, RUNS / member)
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
