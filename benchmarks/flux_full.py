"""FLUX.1 at full size, with random weights: seconds a picture and milliseconds a step, beside plain diffusers.

    python -m benchmarks.flux_full [--size full] [--device cuda] [--rounds 5] [--members dev,schnell]

All sides have the same weights, prompts, seeds and steps; they are in one process and take turns, after one turn each
that is not counted. The sides:

    plain    diffusers' pipeline in bfloat16, as its page shows it, and Pillow's PNG
    exact    our engine, every step computed in bfloat16
    fp8      the same with large layers in fp8
    half     fp8, and of the steps in the middle every other one: the speed "fast"

A step's time is the difference between a whole picture and one of a single step, over the steps between. The floor is
what a step's products would take at 790 TFLOP/s, an H200's rate in bfloat16. The other sizes are for machines without a
GPU: `small` shows that all of this runs, `wide` how far fewer bits are off, and no time of theirs says anything about
FLUX.1.
"""

import argparse
import functools
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    DiffusionPipeline,
    FluxControlNetPipeline,
    FluxFillPipeline,
    FluxKontextPipeline,
    FluxPipeline,
)
from PIL import Image
from safetensors.torch import save_file

from benchmarks.random_flux import SIZES, World, around, checkpoint_of, our_control, ours, scheduler_of
from benchmarks.results import RESULTS, Result, this_machine
from fluxserve.domain.catalog import FAMILIES
from fluxserve.domain.generation import Control, Edit, Generation, Inpaint, Kind, Lora, TextToImage
from fluxserve.domain.speeds import SPEEDS
from fluxserve.engine.flux import Flux
from fluxserve.engine.guests import let_go
from fluxserve.engine.latents import positions
from fluxserve.engine.loras import Loras
from fluxserve.engine.network import Keeping, Precision, Residuals, Shape, Transformer
from fluxserve.engine.png import decode_png, encode_png
from fluxserve.engine.tuning import Tuning, attending, tuned

TOKENIZERS = Path(__file__).parents[1] / "models" / "mini" / "shared"
FLOOR = 790e12  # products a second, twice the multiplications
RANK = 16  # of the LoRA
STRENGTH = 0.7  # of the control
GUIDANCE = 3.5
# A thousand times this is a number of bfloat16, as 3.5 is not: that rounding would hide all others.
WHOLE_GUIDANCE = 4.0


@dataclass(frozen=True, slots=True)
class Case:
    """What is drawn. `target` is the ratio of plain's time to ours that each side is to reach."""

    name: str
    member: str
    steps: int
    side: int = 1024
    at_once: int = 1
    has_lora: bool = False
    has_control: bool = False
    target: Mapping[str, float] | None = None


CASES = (
    Case("schnell", "schnell", 4),
    Case("schnell, 16 waiting", "schnell", 4, at_once=16, target={"fp8": 1.9}),
    Case("dev", "dev", 28, target={"exact": 1.45, "fp8": 1.9, "half": 3.6}),
    Case("dev, 512x512, 8 at once", "dev", 28, side=512, at_once=8, target={"fp8": 2.3}),
    Case("dev + LoRA", "dev", 28, has_lora=True),
    Case("dev + ControlNet", "dev", 28, has_control=True),
    Case("kontext", "edit", 28),
    Case("fill", "fill", 28),
)
SIDES = ("plain", "exact", "fp8", "half")


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of one turn, and those until the last picture was decoded."""

    seconds: float
    drawn_seconds: float


Draw = Callable[[Sequence[Generation]], Taken]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full", help="FLUX.1's own, or one for machines without a GPU")
    parser.add_argument("--device", default="cuda", help="where both sides draw")
    parser.add_argument("--rounds", type=int, default=5, help="counted turns of each side")
    parser.add_argument("--members", default="schnell,dev,edit,fill", help="whose cases are run, by commas")
    parser.add_argument("--sides", default=",".join(SIDES), help="by commas")
    parser.add_argument("--most-steps", type=int, default=28, help="no case has more")
    parser.add_argument("--compilation", default="auto", choices=("auto", "on", "off"), help="of ours")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures are written")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    world = World(SIZES[chosen.size], TOKENIZERS, device, dtype)
    tuning = tuned(device, SPEEDS["exact"], chosen.compilation, "auto")
    machine = this_machine()
    members, sides = chosen.members.split(","), chosen.sides.split(",")
    figures: list[dict[str, Any]] = []
    errors: dict[str, float] = {}

    def result() -> Result:
        name = "flux_full" if chosen.size == "full" else f"flux_full_{chosen.size}"
        return Result(name, figures, notes(chosen, tuning, errors), machine)

    with tempfile.TemporaryDirectory() as folder:
        for member in members:
            bench = Bench(world, member, tuning, Path(folder))
            if member == "dev":  # before anything else: in float32 it takes the room of two
                errors = bench.errors_of_a_step()
            for case in (case for case in CASES if case.member == member):
                scaled = replace(
                    case,
                    steps=min(case.steps, chosen.most_steps),
                    side=round(case.side * world.size.scale),
                    at_once=math.ceil(case.at_once * world.size.scale),
                )
                figures += bench.figures(scaled, sides, chosen.rounds)
                result().write(chosen.results)  # a run that is cut off leaves what it has
            del bench
            let_go(device)
    result().show_and_write(chosen.results)


def notes(chosen: argparse.Namespace, tuning: Tuning, errors: Mapping[str, float]) -> list[str]:
    on = torch.device(chosen.device)
    name = torch.cuda.get_device_name(on) if on.type == "cuda" else "the CPU"
    kinds = [f"blocks {'compiled' if tuning.compiles else 'not compiled'}"]
    kinds += ["CUDA graphs at 512x512 and below"] if tuning.replays else []
    kinds += [f"attention by {tuning.backends[0].name}"] if tuning.backends else []
    said = [
        f"On {name}, size {chosen.size}: random weights; {', '.join(kinds)}. Medians of {chosen.rounds} turns of each "
        "side, which take turns.",
        "Seconds from the wish to the PNG files; those until the last picture was decoded are without PNG.",
    ]
    if errors:
        told = ", ".join(f"{side} {error:.2e}" for side, error in errors.items())
        said.append(f"Relative error of a single step against float32, dev: {told}.")
    if chosen.size != "full":
        said.append("At this size no time says anything about FLUX.1: its networks would need a GPU.")
    return said


class Bench:
    """One member on all sides."""

    def __init__(self, world: World, member: str, tuning: Tuning, folder: Path) -> None:
        self._world = world
        self._member = member
        self._tuning = tuning
        self._theirs = world.transformer(member)
        # Made when they are first needed, for the room that is left before.
        self._shared = functools.cache(world.shared)
        self._control = functools.cache(world.control)
        self._lora = folder / "lora.safetensors"
        self._loras = Loras(lambda _name: self._lora)  # one for all: sides share networks
        self._drawn_with: dict[str, Flux] = {}
        self._random = np.random.default_rng(0)
        if member == "dev":
            save_file(_random_lora(checkpoint_of(self._theirs).shape), self._lora)

    def figures(self, case: Case, sides: Sequence[str], rounds: int) -> list[dict[str, Any]]:
        drawing: dict[str, Draw] = {}
        for side in sides:
            drawing[side] = self._plain(case) if side == "plain" else self._ours(case, side)
        taken: dict[str, list[Taken]] = {side: [] for side in sides}
        of_one: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(rounds + 1):
            for side in sides:
                generations = [self._asked(case, case.steps) for _ in range(case.at_once)]
                one = drawing[side]([self._asked(case, 1)]).drawn_seconds
                whole = drawing[side](generations)
                if turn > 0:  # the first has what comes once: kernels are chosen, blocks compiled
                    taken[side].append(whole)
                    of_one[side].append(one)
                print(
                    f"{case.name}: {side}, turn {turn} of {rounds}: {whole.seconds:.3f} s", file=sys.stderr, flush=True
                )
        return [self._row(case, side, taken, of_one) for side in sides]

    def _row(
        self, case: Case, side: str, taken: Mapping[str, list[Taken]], of_one: Mapping[str, list[float]]
    ) -> dict[str, Any]:
        seconds = {each: statistics.median(turn.seconds for turn in turns) for each, turns in taken.items()}
        drawn = {each: statistics.median(turn.drawn_seconds for turn in turns) for each, turns in taken.items()}
        step = None
        if case.at_once == 1 and case.steps > 1:
            step = (drawn[side] - statistics.median(of_one[side])) / (case.steps - 1)
        floor = operations(checkpoint_of(self._theirs).shape, *self._tokens(case)) / FLOOR
        ratio = seconds["plain"] / seconds[side] if "plain" in taken else None
        bare = drawn["plain"] / drawn[side] if "plain" in taken else None
        return {
            "case": case.name,
            "side": side,
            "steps": case.steps,
            "s": round(seconds[side], 4),
            "s without PNG": round(drawn[side], 4),
            "ms a step": step and round(1e3 * step, 2),
            "share of the floor": step and round(floor / step, 3) if self._world.size.scale == 1 else None,
            "plain / it": ratio and round(ratio, 3),
            "the same without PNG": bare and round(bare, 3),
            "target": (case.target or {}).get(side),
        }

    def _tokens(self, case: Case) -> tuple[int, int]:
        """The image's and the words'."""
        image = (case.side // 16) ** 2
        return image * (2 if case.member == "edit" else 1), FAMILIES["flux1"][case.member].prompt_tokens

    def _asked(self, case: Case, steps: int) -> Generation:
        """With a prompt that nobody has read yet."""
        prompt = f"a cat number {self._random.integers(1 << 30)}"
        kind: Kind = TextToImage(prompt)
        if case.member == "edit":
            kind = Edit(prompt, "photo.png")
        elif case.member == "fill":
            kind = Inpaint(prompt, "photo.png", "mask.png")
        return Generation(
            "flux1-schnell" if case.member == "schnell" else "flux1-dev",
            kind,
            case.side,
            case.side,
            steps,
            None if case.member == "schnell" else GUIDANCE,
            seed=int(self._random.integers(1 << 30)),
            lora=Lora("random", 1.0) if case.has_lora else None,
            control=Control("canny", "photo.png", STRENGTH) if case.has_control else None,
        )

    # ------------------------------------------------------------ the two sides

    def _plain(self, case: Case) -> Draw:
        shared, networks = self._shared(), dict[str, Any]()
        kinds: dict[str, type[DiffusionPipeline]] = {"edit": FluxKontextPipeline, "fill": FluxFillPipeline}
        kind = kinds.get(case.member, FluxPipeline)
        if case.has_control:
            kind, networks = FluxControlNetPipeline, {"controlnet": self._control()}
        pipeline = kind(
            transformer=self._theirs, scheduler=scheduler_of(case.member), vae=shared.vae, text_encoder=shared.clip,
            tokenizer=shared.clip_tokenizer, text_encoder_2=shared.t5, tokenizer_2=shared.t5_tokenizer, **networks,
        )  # fmt: skip
        pipeline.set_progress_bar_config(disable=True)

        def shown(seed: int) -> dict[str, Any]:
            images = {name: Image.fromarray(decode_png(png)) for name, png in _images(case.side, seed).items()}
            if case.has_control:
                return {"control_image": images["photo.png"], "controlnet_conditioning_scale": STRENGTH}
            if case.member == "edit":
                return {"image": images["photo.png"], "_auto_resize": False, "max_area": case.side**2}
            if case.member == "fill":
                return {"image": images["photo.png"], "mask_image": images["mask.png"]}
            return {}

        def draw(generations: Sequence[Generation]) -> Taken:
            more = shown(generations[0].seed)
            if case.has_lora:
                pipeline.load_lora_weights(self._lora, adapter_name="random")
            began, drawn = _now(self._world.device), 0.0
            for asked in generations:
                (picture,) = pipeline(
                    prompt=asked.kind.prompt, width=case.side, height=case.side, num_inference_steps=asked.steps,
                    guidance_scale=asked.guidance_scale or 0.0,
                    max_sequence_length=FAMILIES["flux1"][case.member].prompt_tokens,
                    generator=torch.Generator("cpu").manual_seed(asked.seed), **more,
                ).images  # fmt: skip
                drawn = time.perf_counter()
                picture.save(BytesIO(), "PNG")
            ended = time.perf_counter()
            if case.has_lora:
                pipeline.unload_lora_weights()
            return Taken(ended - began, drawn - began)

        return draw

    def _ours(self, case: Case, side: str) -> Draw:
        tuning = replace(self._tuning, stride=SPEEDS["fast"].stride if side == "half" else 1)
        engine = around(self._flux("fp8" if side == "half" else side, case.has_control), tuning, self._loras)

        def draw(generations: Sequence[Generation]) -> Taken:
            images = _images(case.side, generations[0].seed)
            ends: list[float] = []
            with ThreadPoolExecutor(1) as finisher:  # as a worker does it
                began = _now(self._world.device)
                finished = []
                for asked in generations:
                    (drawn,) = engine.generate(asked, images, lambda *_: None, lambda: False)

                    def finish(drawn: Any = drawn, asked: Generation = asked) -> None:
                        _ = drawn.pixels
                        ends.append(time.perf_counter())
                        engine.finish(drawn, asked, images)

                    finished.append(finisher.submit(finish))
                for each in finished:
                    each.result()
                return Taken(time.perf_counter() - began, max(ends) - began)

        return draw

    def _flux(self, side: str, has_control: bool) -> Flux:
        """What "exact" or "fp8" draws with."""
        precision: Precision = "whole" if side == "exact" else "fp8"
        if side not in self._drawn_with:
            flux = ours(self._member, self._theirs, self._shared(), precision, self._tuning)
            self._drawn_with[side] = self._sharing(flux)
        flux = self._drawn_with[side]
        if has_control and flux.control is None:
            flux = replace(flux, control=our_control(self._control(), precision, self._tuning))
            self._drawn_with[side] = self._sharing(flux)
        return self._drawn_with[side]

    def _sharing(self, flux: Flux) -> Flux:
        """The same, with the modulation that another side has already: it is in bfloat16 on all, and a quarter of the
        weights. A card of 80 GB holds all sides with their control networks only so."""
        for other in self._drawn_with.values():
            if other.own is not flux.own:
                flux.own.transformer.trunk.modulation = other.own.transformer.trunk.modulation
            if flux.control is not None and other.control is not None:
                flux.control.network.trunk.modulation = other.control.network.trunk.modulation
        let_go(flux.device)
        return flux

    # ------------------------------------------------------------ how near they come

    @torch.inference_mode()
    def errors_of_a_step(self) -> dict[str, float]:
        """Of a step in the middle, against the same weights in float32."""
        checkpoint, device = checkpoint_of(self._theirs), self._world.device
        shape, generator = checkpoint.shape, torch.Generator(device).manual_seed(1)

        def random(*size: int) -> torch.Tensor:
            return torch.randn(size, device=device, generator=generator)

        side = round(64 * self._world.size.scale)
        tokens, words, pooled = (
            random(1, side * side, shape.channels_in),
            random(1, 512, shape.words_in),
            random(1, shape.pooled_in),
        )
        answers = {}
        keepings: dict[str, Keeping] = {
            "float32": Keeping(device, torch.float32),
            "exact": Keeping(device, torch.bfloat16),
            "fp8": Keeping(device, torch.bfloat16, "fp8"),
            "nf4": Keeping(device, torch.bfloat16, "nf4"),
        }
        for name, keeping in keepings.items():
            network = Transformer(shape, keeping)
            checkpoint.fill(network)
            if self._tuning.compiles and name != "float32":
                network.trunk.compile_blocks()
            of_words, of_all = words.to(keeping.dtype), pooled.to(keeping.dtype)
            told = network.trunk.tell(of_words, of_all, torch.tensor([500.0]), WHOLE_GUIDANCE, positions(side, side))
            with attending(self._tuning):
                answer = network(tokens.to(keeping.dtype), told, 0, Residuals(), side * side)
            answers[name] = answer.float()
            del network, told
            let_go(device)
        dtype, ids = self._world.dtype, positions(side, side).to(device)
        answers["plain"] = self._theirs(
            hidden_states=tokens.to(dtype), encoder_hidden_states=words.to(dtype), pooled_projections=pooled.to(dtype),
            timestep=torch.tensor([0.5], device=device, dtype=dtype),
            guidance=torch.tensor([WHOLE_GUIDANCE], device=device), img_ids=ids,
            txt_ids=torch.zeros(512, 3, device=device), return_dict=False,
        )[0].float()  # fmt: skip
        exact = answers.pop("float32")
        return {name: float((answer - exact).norm() / exact.norm()) for name, answer in answers.items()}


def operations(shape: Shape, image: int, words: int) -> int:
    """Of a step's products: two for each weight that a token meets, and the attention's."""
    tokens, width = image + words, shape.width
    of_weights = 12 * (shape.doubles + shape.singles) * width**2
    return 2 * tokens * of_weights + 4 * (shape.doubles + shape.singles) * tokens**2 * width


def _random_lora(shape: Shape) -> dict[str, torch.Tensor]:
    """An addition to every layer of every attention."""
    generator = torch.Generator().manual_seed(2)
    blocks = [f"transformer_blocks.{number}" for number in range(shape.doubles)]
    blocks += [f"single_transformer_blocks.{number}" for number in range(shape.singles)]
    lora = {}
    for block in blocks:
        for letter in "qkv":
            layer = f"transformer.{block}.attn.to_{letter}"
            lora[f"{layer}.lora_A.weight"] = 0.02 * torch.randn(RANK, shape.width, generator=generator)
            lora[f"{layer}.lora_B.weight"] = 0.02 * torch.randn(shape.width, RANK, generator=generator)
    return lora


def _images(side: int, seed: int) -> dict[str, bytes]:
    """A photo that nobody has seen yet, and its mask."""
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    photo = np.stack(np.broadcast_arrays(ramp[None], ramp[:, None], np.uint8(seed % 256)), -1)
    mask = np.zeros_like(photo)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 255
    return {"photo.png": encode_png(photo), "mask.png": encode_png(mask)}


def _now(device: torch.device) -> float:
    """When the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
