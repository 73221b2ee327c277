"""LoRAs are put on and taken off between generations, and leave no trace."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fluxserve.domain.generation import Generation, Lora
from fluxserve.engine.flux import Flux
from fluxserve.engine.lora_files import LoraError
from fluxserve.engine.loras import Loras, finder
from fluxserve.engine.network import Precision
from fluxserve.engine.plan import Plan
from fluxserve.engine.sources import Sources
from fluxserve.engine.weights import Loader
from tests.engine import family, oracle
from tests.engine.test_denoise import assert_close, our_latents

WIDTH, RANK = 16, 2
Weights = dict[str, torch.Tensor]


def pair(rows: int, columns: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(down, up) of one layer, strong enough to be seen."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(RANK, columns, generator=generator), torch.randn(rows, RANK, generator=generator)


def diffusers_layout(seed: int = 0) -> Weights:
    weights: Weights = {}
    for block in ("transformer_blocks.0", "single_transformer_blocks.0"):
        for number, layer in enumerate(("attn.to_q", "attn.to_k", "attn.to_v")):
            down, up = pair(WIDTH, WIDTH, seed + number)
            weights |= {
                f"transformer.{block}.{layer}.lora_A.weight": down,
                f"transformer.{block}.{layer}.lora_B.weight": up,
            }
    return weights


def kohya_layout() -> Weights:
    down, up = pair(3 * WIDTH, WIDTH, 0)
    qkv, projection = "lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_double_blocks_0_img_attn_proj"
    weights = {f"{qkv}.lora_down.weight": down, f"{qkv}.lora_up.weight": up, f"{qkv}.alpha": torch.tensor(4.0)}
    down, up = pair(WIDTH, WIDTH, 1)
    return weights | {
        f"{projection}.lora_down.weight": down,
        f"{projection}.lora_up.weight": up,
        f"{projection}.alpha": torch.tensor(1.0),
    }


def xlabs_layout() -> Weights:
    weights: Weights = {}
    for layer, rows in (
        ("qkv_lora1", 3 * WIDTH),
        ("proj_lora1", WIDTH),
        ("qkv_lora2", 3 * WIDTH),
        ("proj_lora2", WIDTH),
    ):
        down, up = pair(rows, WIDTH, rows)
        weights |= {f"double_blocks.0.processor.{layer}.down.weight": down}
        weights |= {f"double_blocks.0.processor.{layer}.up.weight": up}
    return weights


def layout_with_alphas() -> Weights:
    """One layer says its alpha, another a different one, the others none."""
    alphas = {"transformer_blocks.0.attn.to_q": 1.0, "single_transformer_blocks.0.attn.to_k": 3.0}
    return diffusers_layout() | {f"transformer.{layer}.alpha": torch.tensor(alpha) for layer, alpha in alphas.items()}


def layout_of_old() -> Weights:
    """As diffusers wrote it before peft."""
    names = {"lora_A": "lora.down", "lora_B": "lora.up"}
    return {
        key.replace(new, old): weight
        for key, weight in diffusers_layout().items()
        for new, old in names.items()
        if new in key
    }


def configuration(**more: object) -> dict[str, str]:
    """A file's metadata as peft's own training writes it."""
    config = {"r": RANK, "lora_alpha": 6, "target_modules": ["to_q", "to_k", "to_v"], **more}
    values = {f"transformer.{key}": value for key, value in config.items()}
    return {"format": "pt", "lora_adapter_metadata": json.dumps(values)}


LAYOUTS: dict[str, tuple[Callable[[], Weights], dict[str, str] | None]] = {
    "diffusers": (diffusers_layout, None),
    "diffusers, old": (layout_of_old, None),
    "diffusers, with alphas": (layout_with_alphas, None),
    "peft": (diffusers_layout, configuration()),
    "peft, alphas by pattern": (diffusers_layout, configuration(alpha_pattern={"attn.to_q": 1, r"single.*to_v": 5})),
    "peft, scaled by the root of the rank": (diffusers_layout, configuration(use_rslora=True)),
    "kohya": (kohya_layout, None),
    "xlabs": (xlabs_layout, None),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, (layout, metadata) in LAYOUTS.items():
        save_file(layout(), tmp_path / f"{name}.safetensors", metadata)
    return tmp_path


@pytest.fixture
def loras(folder: Path) -> Loras:
    return Loras(lambda name: folder / f"{name}.safetensors")


@pytest.fixture
def dev(mini_folder: Path) -> Flux:
    """One of this test's own: LoRAs change the modules of a transformer."""
    return Loader(family.MEMBERS, Sources(mini_folder), torch.device("cpu"), [Plan(torch.float32)]).load("dev")


@pytest.fixture
def drawing(circle: Generation) -> Generation:
    return replace(circle, model="flux1-dev", steps=3, guidance_scale=2.5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_every_layout_draws_what_diffusers_draws_with_it(
    folder: Path, loras: Loras, dev: Flux, drawing: Generation, layout: str, strength: float
) -> None:
    loras.put_on(dev.own, Lora(layout, strength))
    pipeline = oracle.pipeline_of(dev)
    pipeline.load_lora_weights(folder, weight_name=f"{layout}.safetensors", adapter_name="it")
    pipeline.set_adapters("it", strength)
    try:
        assert_close(our_latents(dev, drawing), oracle.draw(dev, drawing, "latent"))
    finally:
        pipeline.unload_lora_weights()


def test_taken_off_it_leaves_no_trace(loras: Loras, dev: Flux, drawing: Generation) -> None:
    before = our_latents(dev, drawing)
    loras.put_on(dev.own, Lora("diffusers", 1.0))
    with_it = our_latents(dev, drawing)
    loras.put_on(dev.own, None)
    assert torch.equal(our_latents(dev, drawing), before)
    assert not torch.equal(with_it, before)


@pytest.mark.parametrize("precision", ["whole", "fp8"])
def test_taken_off_with_a_spare_copy_it_leaves_no_trace(mini_folder: Path, loras: Loras, precision: Precision) -> None:
    """The copy is in the network's type, the file in another."""
    plan = Plan(torch.bfloat16, precision)
    own = Loader(family.MEMBERS, Sources(mini_folder), torch.device("cpu"), [plan]).load("dev").own
    before = {name: weight.clone() for name, weight in own.transformer.named_parameters()}
    own.checkpoint.keep_on(torch.device("cpu"), torch.bfloat16)
    for lora in (Lora("diffusers", 1.0), None):
        loras.put_on(own, lora)
        same = [torch.equal(weight, before[name]) for name, weight in own.transformer.named_parameters()]
        assert all(same) is (lora is None)


def test_only_the_last_one_put_on_is_on(loras: Loras, dev: Flux, drawing: Generation) -> None:
    drawn = []
    for name in ("kohya", "xlabs", "kohya"):
        loras.put_on(dev.own, Lora(name, 1.0))
        drawn.append(our_latents(dev, drawing))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_strength_0_changes_nothing_and_more_changes_more(loras: Loras, dev: Flux, drawing: Generation) -> None:
    before = our_latents(dev, drawing)
    distances = []
    for strength in (0.0, 0.1, 0.5):
        loras.put_on(dev.own, Lora("diffusers", strength))
        distances.append(float((our_latents(dev, drawing) - before).abs().mean()))
    assert distances[0] == 0
    assert distances == sorted(set(distances))


def test_those_used_last_are_kept_and_the_others_let_go(folder: Path, dev: Flux) -> None:
    loras = Loras(lambda name: folder / f"{name}.safetensors", most_kept=2)
    for name in ("diffusers", "kohya", "xlabs", "kohya"):
        loras.put_on(dev.own, Lora(name, 1.0))
        assert loras.kept(dev.own) <= 2


def test_a_file_that_was_replaced_is_loaded_anew(folder: Path, loras: Loras, dev: Flux, drawing: Generation) -> None:
    loras.put_on(dev.own, Lora("diffusers", 1.0))
    first = our_latents(dev, drawing)
    (folder / "diffusers.safetensors").unlink()
    save_file(diffusers_layout(seed=50), folder / "diffusers.safetensors")
    loras.put_on(dev.own, Lora("diffusers", 1.0))
    assert not torch.equal(our_latents(dev, drawing), first)


def test_a_name_is_looked_up_in_the_own_folder_first(tmp_path: Path) -> None:
    own, shipped = tmp_path / "own", tmp_path / "mini"
    for path in (own / "art.safetensors", shipped / "loras/art.safetensors", shipped / "loras/anime.safetensors"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    find = finder({name: f"mini/loras/{name}.safetensors" for name in ("art", "anime", "gone")}, Sources(shipped), own)
    assert find("art") == own / "art.safetensors"
    assert find("anime") == shipped / "loras/anime.safetensors"
    for name in ("gone", "nobodys", "../mini/loras/anime", "", ".", "a\0b"):
        with pytest.raises(LoraError, match="LoRA "):
            find(name)


def test_a_text_encoders_part_is_left_out(folder: Path, loras: Loras, dev: Flux, drawing: Generation) -> None:
    down, up = pair(WIDTH, WIDTH, 5)
    layer = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    words = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    save_file(diffusers_layout() | words, folder / "both.safetensors")
    drawn = []
    for name in ("diffusers", "both"):
        loras.put_on(dev.own, Lora(name, 1.0))
        drawn.append(our_latents(dev, drawing))
    assert torch.equal(*drawn)


def wrong_shape() -> Weights:
    return {key: weight.repeat(1, 2) if "lora_A" in key else weight for key, weight in diffusers_layout().items()}


def another_block() -> Weights:
    return {key.replace("blocks.0", "blocks.7"): weight for key, weight in diffusers_layout().items()}


def one_half() -> Weights:
    return {key: weight for key, weight in diffusers_layout().items() if "lora_A" in key}


def with_a_norm() -> Weights:
    return diffusers_layout() | {"transformer.transformer_blocks.0.attn.norm_q.weight": torch.ones(8)}


def with_more(end: str, value: torch.Tensor) -> Weights:
    return diffusers_layout() | {f"transformer.transformer_blocks.0.attn.to_q.{end}": value}


BAD: dict[str, Weights | bytes] = {
    "text": b"not a safetensors file",
    "pickle": b"\x80\x04\x95" + bytes(100),
    "a header that lies": (10**6).to_bytes(8, "little") + b"{}",
    "whole numbers": {key: weight.to(torch.int32) for key, weight in diffusers_layout().items()},
    "another model's": {"unet.down_blocks.0.attn.to_q.lora_A.weight": torch.ones(2, 4)},
    "the wrong shape": wrong_shape(),
    "a larger model's": another_block(),
    "one half": one_half(),
    "a norm beside it": with_a_norm(),
    "an alpha that is two": with_more("alpha", torch.ones(2)),
    "a bias of the wrong width": with_more("lora_B.bias", torch.ones(WIDTH + 1)),
    "a rank beyond all": {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(600, 600)},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_and_the_model_draws_on(
    folder: Path, loras: Loras, dev: Flux, drawing: Generation, name: str
) -> None:
    content = BAD[name]
    if isinstance(content, bytes):
        (folder / "bad.safetensors").write_bytes(content)
    else:
        save_file(content, folder / "bad.safetensors")
    before = our_latents(dev, drawing)
    with pytest.raises(LoraError, match="LoRA bad: "):
        loras.put_on(dev.own, Lora("bad", 1.0))
    assert torch.equal(our_latents(dev, drawing), before)
    loras.put_on(dev.own, Lora("diffusers", 1.0))
    assert not torch.equal(our_latents(dev, drawing), before)
