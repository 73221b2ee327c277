"""A family of untaught models, the same classes and folders as the real ones, small enough to build in a second."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxControlNetModel, FluxTransformer2DModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from fluxserve.domain.catalog import Weights

WIDTH = 16
CHANNELS = 16  # of a token: four latents of four channels
PIXELS = 32 * 32  # of a token
BLOCKS: dict[str, Any] = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "pooled_projection_dim": WIDTH,
    "axes_dims_rope": (2, 2, 4),
}

MEMBERS = {
    member: Weights(f"mini/{member}", "mini/shared", prompt_tokens=24, side_multiple=32, native_pixels=256 * 256)
    for member in ("schnell", "dev", "fill", "edit")
}
MEMBERS["dev"] = replace(
    MEMBERS["dev"], image_prompt="mini/variation", control="mini/control", control_modes={"canny": 1}
)
WORDS = ("a", "little", "big", "red", "green", "blue", "circle", "square", "cat", "dog", "on", "grass", "ugly", "the")


def build(folder: Path) -> None:
    """<folder>/shared/{vae, text_encoder, ...} and <folder>/<member>/{transformer, scheduler}."""
    torch.manual_seed(0)
    _build_shared(folder / "shared")
    _build_own(folder / "schnell", guidance_embeds=False, scheduler={"shift": 1.0})
    dynamic: dict[str, object] = {"use_dynamic_shifting": True, "base_image_seq_len": 64, "max_image_seq_len": 1024}
    _build_own(folder / "dev", guidance_embeds=True, scheduler=dynamic)
    _build_own(folder / "edit", guidance_embeds=True, scheduler=dynamic)
    _build_image_prompt(folder / "variation")
    _build_control(folder / "control")
    _build_own(folder / "fill", guidance_embeds=True, scheduler=dynamic, more_channels=CHANNELS + PIXELS)


def _build_own(folder: Path, *, guidance_embeds: bool, scheduler: dict[str, object], more_channels: int = 0) -> None:
    FluxTransformer2DModel(
        in_channels=CHANNELS + more_channels,
        out_channels=CHANNELS,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(2, 2, 4),
    ).save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(**scheduler).save_pretrained(folder / "scheduler")


def _build_image_prompt(folder: Path) -> None:
    SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        )
    ).save_pretrained(folder / "image_encoder")
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / "feature_extractor")
    ReduxImageEncoder(redux_dim=WIDTH, txt_in_features=WIDTH).save_pretrained(folder / "image_embedder")


def _build_control(folder: Path) -> None:
    control = FluxControlNetModel(in_channels=CHANNELS, guidance_embeds=True, num_mode=2, **BLOCKS)
    for part in (control.controlnet_x_embedder, *control.controlnet_blocks, *control.controlnet_single_blocks):
        torch.nn.init.normal_(part.weight, std=0.1)  # a new one adds nothing
    control.save_pretrained(folder)


def _build_shared(folder: Path) -> None:
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 5,
        up_block_types=("UpDecoderBlock2D",) * 5,
        block_out_channels=(4, 4, 4, 4, 4),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        scaling_factor=0.5,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).save_pretrained(folder / "vae")
    clip_tokenizer, t5_tokenizer = _clip_tokenizer(), _t5_tokenizer()
    clip_tokenizer.save_pretrained(folder / "tokenizer")
    t5_tokenizer.save_pretrained(folder / "tokenizer_2")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip_tokenizer),
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            projection_dim=WIDTH,
            bos_token_id=clip_tokenizer.bos_token_id,
            eos_token_id=clip_tokenizer.eos_token_id,
            pad_token_id=clip_tokenizer.pad_token_id,
        )
    ).save_pretrained(folder / "text_encoder")
    T5EncoderModel(
        T5Config(vocab_size=len(t5_tokenizer), d_model=WIDTH, d_kv=8, num_heads=2, d_ff=WIDTH, num_layers=1)
    ).save_pretrained(folder / "text_encoder_2")


def _clip_tokenizer() -> CLIPTokenizer:
    """Byte-level pieces: any text has tokens."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700, end_of_word_suffix="</w>", show_progress=False, initial_alphabet=alphabet
    )
    trained.train_from_iterator([[word] for word in WORDS], trainer)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    pieces = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)  # type: ignore[arg-type]


def _t5_tokenizer() -> T5Tokenizer:
    """Whole words; any other is unknown."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -1.0 - 0.01 * number) for number, word in enumerate(WORDS)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=24)


ALLOWED, FLAGGED = "normal", "nsfw"


def build_classifier(folder: Path) -> Path:
    """A classifier of pictures, of random weights."""
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=16, patch_size=8,
        id2label={0: ALLOWED, 1: FLAGGED}, label2id={ALLOWED: 0, FLAGGED: 1},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder
