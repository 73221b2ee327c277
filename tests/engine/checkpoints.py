"""The very same small network in every layout that files come in."""

from pathlib import Path

import gguf
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file

State = dict[str, torch.Tensor]

WIDTH, HEADS, DOUBLES, SINGLES = 256, 2, 2, 2
FP8 = torch.float8_e4m3fn


def network(*, takes_guidance: bool = True) -> FluxTransformer2DModel:
    """Wide enough to have heads as wide as FLUX.1's, which a single file can't say."""
    torch.manual_seed(3)
    return FluxTransformer2DModel(
        in_channels=16, num_layers=DOUBLES, num_single_layers=SINGLES, attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS, joint_attention_dim=32, pooled_projection_dim=32, guidance_embeds=takes_guidance,
    ).eval()  # fmt: skip


def as_its_makers_write_it(network: FluxTransformer2DModel) -> State:
    """Under the names of the reference implementation, layers that read the same states in one."""
    theirs = network.state_dict()
    state: State = {}

    def move(to: str, *names: str) -> None:
        for end in ("weight", "bias"):
            state[f"{to}.{end}"] = torch.cat([theirs[f"{name}.{end}"] for name in names])

    move("img_in", "x_embedder")
    move("txt_in", "context_embedder")
    for to, name in (("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance")):
        if f"time_text_embed.{name}_embedder.linear_1.weight" in theirs:
            move(f"{to}.in_layer", f"time_text_embed.{name}_embedder.linear_1")
            move(f"{to}.out_layer", f"time_text_embed.{name}_embedder.linear_2")
    for number in range(DOUBLES):
        to, block = f"double_blocks.{number}", f"transformer_blocks.{number}"
        move(f"{to}.img_mod.lin", f"{block}.norm1.linear")
        move(f"{to}.txt_mod.lin", f"{block}.norm1_context.linear")
        move(f"{to}.img_attn.qkv", f"{block}.attn.to_q", f"{block}.attn.to_k", f"{block}.attn.to_v")
        move(f"{to}.txt_attn.qkv", *(f"{block}.attn.add_{letter}_proj" for letter in "qkv"))
        move(f"{to}.img_attn.proj", f"{block}.attn.to_out.0")
        move(f"{to}.txt_attn.proj", f"{block}.attn.to_add_out")
        for short, perceptron in (("img", "ff"), ("txt", "ff_context")):
            move(f"{to}.{short}_mlp.0", f"{block}.{perceptron}.net.0.proj")
            move(f"{to}.{short}_mlp.2", f"{block}.{perceptron}.net.2")
        for short, added in (("img", ""), ("txt", "added_")):
            state[f"{to}.{short}_attn.norm.query_norm.scale"] = theirs[f"{block}.attn.norm_{added}q.weight"]
            state[f"{to}.{short}_attn.norm.key_norm.scale"] = theirs[f"{block}.attn.norm_{added}k.weight"]
    for number in range(SINGLES):
        to, block = f"single_blocks.{number}", f"single_transformer_blocks.{number}"
        move(f"{to}.modulation.lin", f"{block}.norm.linear")
        move(f"{to}.linear1", *(f"{block}.attn.to_{letter}" for letter in "qkv"), f"{block}.proj_mlp")
        move(f"{to}.linear2", f"{block}.proj_out")
        state[f"{to}.norm.query_norm.scale"] = theirs[f"{block}.attn.norm_q.weight"]
        state[f"{to}.norm.key_norm.scale"] = theirs[f"{block}.attn.norm_k.weight"]
    for end in ("weight", "bias"):
        scale, shift = theirs[f"norm_out.linear.{end}"].chunk(2)
        state[f"final_layer.adaLN_modulation.1.{end}"] = torch.cat((shift, scale))
    move("final_layer.linear", "proj_out")
    return state


def in_fp8(state: State, *, scaled: bool) -> State:
    """Matrices in eight bits, with a scale each or without."""
    small: State = {}
    for name, tensor in state.items():
        if tensor.ndim != 2:
            small[name] = tensor
            continue
        scale = tensor.abs().max() / torch.finfo(FP8).max if scaled else torch.tensor(1.0)
        small[name] = (tensor / scale).to(FP8)
        if scaled:
            small[name.removesuffix(".weight") + ".scale_weight"] = scale
    return small


def write_gguf(path: Path, state: State, kind: gguf.GGMLQuantizationType) -> None:
    """Matrices quantized where the kind allows it, all else in float32."""
    writer = gguf.GGUFWriter(path, "flux")
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    for name, tensor in state.items():
        values = tensor.float().numpy()
        if tensor.ndim == 2 and tensor.shape[1] % block == 0:
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_in_parts(folder: Path, network: FluxTransformer2DModel) -> None:
    """As diffusers does it with large ones."""
    network.save_pretrained(folder, max_shard_size="2MB")


def write_with_others(path: Path, state: State) -> None:
    """Beside other networks, as some tools keep everything in one file."""
    save_file(
        {f"model.diffusion_model.{name}": tensor.clone() for name, tensor in state.items()}
        | {"vae.encoder.conv_in.weight": torch.zeros(3)},
        path,
    )
