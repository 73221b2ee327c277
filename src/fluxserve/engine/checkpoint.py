"""A network's weights as files hold them, read layer by layer, when they are asked for and as often.

Four layouts: a folder as diffusers writes it, in one file or several; a single file as FLUX's makers write it, perhaps
in fp8 and within a file that holds other networks too; a GGUF file. All are asked by diffusers' names. Files are mapped
into memory, not read into it: what is asked for twice comes from the system's cache. Nothing else is opened, and
pickle least of all, which can run code when it is read.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from fluxserve.engine.network import Shape
from fluxserve.engine.network.layers import layer_at
from fluxserve.engine.network.names import END, Gain, Part, gains, parts
from fluxserve.engine.sources import CannotDraw

CONFIG = "config.json"
MODES = "controlnet_mode_embedder.weight"
OF_THE_TRANSFORMER = "model.diffusion_model."  # before its names, in files that hold other networks too
SCALES = (".scale_weight", ".weight_scale")  # of a weight in fp8, where it has one


class CheckpointError(CannotDraw):
    """A checkpoint can't be loaded; the message says which, and why."""


class Tensors(Protocol):
    """A file's tensors, or several files'."""

    def names(self) -> Sequence[str]: ...

    def size(self, name: str) -> tuple[int, ...]: ...

    def read(self, name: str, rows: slice, device: torch.device) -> torch.Tensor:
        """Floating point numbers."""
        ...


class Checkpoint:
    """One network's."""

    def __init__(self, path: Path, tensors: Tensors, shape: Shape, *, is_control: bool, are_makers: bool) -> None:
        self.path = path
        self.shape = shape
        self.parts = {part.name: part for part in parts(shape, is_control=is_control)}
        self.gains = list(gains(shape))
        self._tensors = tensors
        self._are_makers = are_makers
        self._names = frozenset(tensors.names())
        self._kept: dict[str, torch.Tensor] = {}
        self._check()

    def fill(self, network: nn.Module) -> None:
        """Everything that `network`, made with its shape, keeps."""
        network.eval()
        with torch.no_grad():
            for part in self.parts.values():
                layer = layer_at(network, part.path)
                device = layer.weight.device
                # In the network's type first, as a spare copy is: a layer is the same, wherever it is filled from.
                weight = self.weight(part, device).to(layer.bias.dtype)
                layer.fill(part.first, weight, self.bias(part, device))
            for gain in self.gains:
                self._copy(self._gain_key(gain), network.get_parameter(gain.path))
            if self.shape.modes:
                self._copy(MODES, network.get_parameter("modes"))

    def keep_on(self, device: torch.device, dtype: torch.dtype) -> None:
        """Read all layers' weights from there from now on, and no file."""
        if not self._kept:
            self._kept = {name: self.weight(part, device).to(dtype) for name, part in self.parts.items()}

    def forget(self) -> None:
        """Read files again."""
        self._kept = {}

    def size(self, part: Part) -> tuple[int, int]:
        """A layer's width out and width in."""
        return part.rows, self._tensors.size(self._key(part, "weight"))[1]

    def weight(self, part: Part, device: torch.device) -> torch.Tensor:
        """A layer's, (rows, width in)."""
        return self._kept[part.name] if part.name in self._kept else self._read(part, "weight", device)

    def bias(self, part: Part, device: torch.device) -> torch.Tensor | None:
        """A layer's, (rows,); None where it has none."""
        return self._read(part, "bias", device) if self._key(part, "bias") in self._names else None

    def _copy(self, key: str, to: torch.Tensor) -> None:
        to.copy_(self._tensors.read(key, slice(None), to.device))

    def _read(self, part: Part, what: str, device: torch.device) -> torch.Tensor:
        rows = slice(part.makers_first, part.makers_first + part.rows) if self._are_makers else slice(None)
        read = self._tensors.read(self._key(part, what), rows, device)
        return read.roll(part.rows // 2, 0) if self._are_makers and part.name == END else read

    def _key(self, part: Part, what: str) -> str:
        return f"{part.makers if self._are_makers else part.name}.{what}"

    def _gain_key(self, gain: Gain) -> str:
        return gain.makers if self._are_makers else gain.name

    def _check(self) -> None:
        """Raises `CheckpointError` unless all that is needed is there, and has enough rows."""
        for part in self.parts.values():
            key = self._key(part, "weight")
            if key not in self._names:
                raise CheckpointError(f"{self.path.name} holds no {key}")
            rows = self._tensors.size(key)[0]
            if rows < part.rows + (part.makers_first if self._are_makers else 0):
                raise CheckpointError(f"{self.path.name}: {key} has {rows} rows, too few for its place")
        for gain in self.gains:
            if self._gain_key(gain) not in self._names:
                raise CheckpointError(f"{self.path.name} holds no {self._gain_key(gain)}")


def open_checkpoint(path: Path, *, is_control: bool = False) -> Checkpoint:
    """That of a folder or of a single file. Raises `CheckpointError`."""
    if path.is_dir():
        tensors: Tensors = _safetensors(sorted(path.glob("*.safetensors")), path)
        config = json.loads((path / CONFIG).read_text()) if (path / CONFIG).is_file() else None
    elif path.suffix == ".gguf":
        tensors, config = GgufTensors(path), None
    else:
        tensors, config = _safetensors([path], path), None
    names = frozenset(tensors.names())
    are_makers = "double_blocks.0.img_attn.qkv.weight" in names
    if not are_makers and "transformer_blocks.0.attn.to_q.weight" not in names:
        raise CheckpointError(f"{path.name} holds no FLUX network")
    shape = Shape.of_config(config) if config else _shape_of(tensors, are_makers)
    return Checkpoint(path, tensors, shape, is_control=is_control, are_makers=are_makers)


class SafeTensors:
    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def names(self) -> Sequence[str]:
        return list(self._tensors)

    def size(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def read(self, name: str, rows: slice, device: torch.device) -> torch.Tensor:
        read = self._tensors[name][rows].to(device)
        if read.dtype.itemsize > 1:
            return read
        for end in SCALES:
            scale = self._tensors.get(name.removesuffix(".weight") + end)
            if scale is not None:
                return read.float() * (scale if scale.ndim == 0 else scale.reshape(-1)[rows, None]).to(device)
        return read.to(torch.bfloat16)  # which holds whatever eight bits can


class GgufTensors:
    def __init__(self, path: Path) -> None:
        from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES
        from gguf import GGMLQuantizationType, GGUFReader

        try:
            read = GGUFReader(path).tensors
        except Exception as error:  # it meets a file that is cut off or is another with errors of every kind
            raise CheckpointError(f"{path.name} is no GGUF file, or not the whole of one") from error
        self._plain = (GGMLQuantizationType.F32, GGMLQuantizationType.F16)
        for tensor in read:
            if tensor.tensor_type not in (*self._plain, *SUPPORTED_GGUF_QUANT_TYPES):
                raise CheckpointError(
                    f"{path.name} is quantized to {tensor.tensor_type.name}, which can't be read here"
                )
        self._tensors = {_bare(tensor.name): tensor for tensor in read}

    def names(self) -> Sequence[str]:
        return list(self._tensors)

    def size(self, name: str) -> tuple[int, ...]:
        return tuple(int(length) for length in reversed(self._tensors[name].shape))

    def read(self, name: str, rows: slice, device: torch.device) -> torch.Tensor:
        from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor

        tensor: Any = self._tensors[name]
        held = torch.tensor(tensor.data[rows]).to(device)
        if tensor.tensor_type in self._plain:
            return held
        numbers: torch.Tensor = dequantize_gguf_tensor(GGUFParameter(held, quant_type=tensor.tensor_type))
        return numbers


def _safetensors(files: Sequence[Path], where: Path) -> SafeTensors:
    if not files:
        raise CheckpointError(f"{where.name} holds no safetensors file, and nothing else is read")
    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                keys = list(file.keys())
                wanted = [key for key in keys if key.startswith(OF_THE_TRANSFORMER)] or keys
                tensors |= {_bare(key): file.get_tensor(key) for key in wanted}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path.name} is no safetensors file, and nothing else is read") from error
    return SafeTensors(tensors)


def _bare(key: str) -> str:
    return key.removeprefix(OF_THE_TRANSFORMER)


def _shape_of(tensors: Tensors, are_makers: bool) -> Shape:
    """What a single file's tensors tell of the network."""
    image, words, meaning, out, gain, guidance, double, single = (
        (
            "img_in", "txt_in", "vector_in.in_layer", "final_layer.linear",
            "double_blocks.0.img_attn.norm.query_norm.scale", "guidance_in.in_layer", "double_blocks", "single_blocks",
        )
        if are_makers
        else (
            "x_embedder", "context_embedder", "time_text_embed.text_embedder.linear_1", "proj_out",
            "transformer_blocks.0.attn.norm_q.weight", "time_text_embed.guidance_embedder.linear_1",
            "transformer_blocks", "single_transformer_blocks",
        )
    )  # fmt: skip
    names = tensors.names()
    width, channels_in = tensors.size(f"{image}.weight")
    (head_width,) = tensors.size(gain)
    return Shape(
        channels_in=channels_in,
        channels_out=tensors.size(f"{out}.weight")[0],
        words_in=tensors.size(f"{words}.weight")[1],
        pooled_in=tensors.size(f"{meaning}.weight")[1],
        heads=width // head_width,
        head_width=head_width,
        doubles=_count(names, double),
        singles=_count(names, single),
        takes_guidance=f"{guidance}.weight" in names,
    )


def _count(names: Sequence[str], blocks: str) -> int:
    return len({name.split(".")[1] for name in names if name.startswith(f"{blocks}.")})
