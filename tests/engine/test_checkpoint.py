"""Whatever layout a network's file has, it is the same network."""

from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file

from fluxserve.engine.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from fluxserve.engine.latents import positions
from fluxserve.engine.network import Keeping, Residuals, Transformer
from tests.engine import checkpoints

CPU = torch.device("cpu")
ROWS, COLUMNS, WORDS = 3, 4, 5
WHOLE, EIGHT_BITS, FOUR_BITS = 1e-5, 0.06, 0.2  # relative errors of an answer


def a_folder(tmp_path: Path, network: FluxTransformer2DModel) -> Path:
    network.save_pretrained(tmp_path / "it")
    return tmp_path / "it"


def a_folder_in_parts(tmp_path: Path, network: FluxTransformer2DModel) -> Path:
    checkpoints.write_in_parts(tmp_path / "it", network)
    assert len(list((tmp_path / "it").glob("*.safetensors"))) > 1
    return tmp_path / "it"


def saved(tmp_path: Path, state: checkpoints.State) -> Path:
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "it.safetensors")
    return tmp_path / "it.safetensors"


def a_file_of_the_makers(tmp_path: Path, network: FluxTransformer2DModel) -> Path:
    return saved(tmp_path, checkpoints.as_its_makers_write_it(network))


def a_file_by_diffusers_names(tmp_path: Path, network: FluxTransformer2DModel) -> Path:
    return saved(tmp_path, network.state_dict())


def a_file_with_other_networks(tmp_path: Path, network: FluxTransformer2DModel) -> Path:
    checkpoints.write_with_others(tmp_path / "it.safetensors", checkpoints.as_its_makers_write_it(network))
    return tmp_path / "it.safetensors"


def a_file_in_fp8(tmp_path: Path, network: FluxTransformer2DModel) -> Path:
    return saved(tmp_path, checkpoints.in_fp8(checkpoints.as_its_makers_write_it(network), scaled=False))


def a_file_in_fp8_with_scales(tmp_path: Path, network: FluxTransformer2DModel) -> Path:
    return saved(tmp_path, checkpoints.in_fp8(checkpoints.as_its_makers_write_it(network), scaled=True))


def a_gguf(kind: gguf.GGMLQuantizationType) -> Callable[[Path, FluxTransformer2DModel], Path]:
    def write(tmp_path: Path, network: FluxTransformer2DModel) -> Path:
        checkpoints.write_gguf(tmp_path / "it.gguf", checkpoints.as_its_makers_write_it(network), kind)
        return tmp_path / "it.gguf"

    return write


Kind = gguf.GGMLQuantizationType
LAYOUTS: dict[str, tuple[Callable[[Path, FluxTransformer2DModel], Path], float]] = {
    "a folder": (a_folder, WHOLE),
    "a folder in parts": (a_folder_in_parts, WHOLE),
    "a file of the makers": (a_file_of_the_makers, WHOLE),
    "a file by diffusers' names": (a_file_by_diffusers_names, WHOLE),
    "a file with other networks": (a_file_with_other_networks, WHOLE),
    "a file in fp8": (a_file_in_fp8, EIGHT_BITS),
    "a file in fp8 with scales": (a_file_in_fp8_with_scales, EIGHT_BITS),
    "GGUF, F16": (a_gguf(Kind.F16), 1e-3),
    "GGUF, BF16": (a_gguf(Kind.BF16), 1e-2),
    "GGUF, Q8_0": (a_gguf(Kind.Q8_0), 1e-2),
    "GGUF, Q5_0": (a_gguf(Kind.Q5_0), FOUR_BITS),
    "GGUF, Q4_0": (a_gguf(Kind.Q4_0), FOUR_BITS),
    "GGUF, Q4_1": (a_gguf(Kind.Q4_1), FOUR_BITS),
}


@torch.inference_mode()
def answers(path: Path, network: FluxTransformer2DModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours from the file, and diffusers' own."""
    checkpoint = open_checkpoint(path)
    ours = Transformer(checkpoint.shape, Keeping(CPU, torch.float32))
    checkpoint.fill(ours)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(1, ROWS * COLUMNS, 16, generator=generator)
    words, pooled = torch.randn(1, WORDS, 32, generator=generator), torch.randn(1, 32, generator=generator)
    timesteps, places = torch.tensor([1000.0, 300.0]), positions(ROWS, COLUMNS)
    told = ours.trunk.tell(words, pooled, timesteps, 3.5, places)
    expected = network(
        hidden_states=tokens, encoder_hidden_states=words, pooled_projections=pooled, timestep=timesteps[1:] / 1000,
        guidance=torch.tensor([3.5]) if checkpoint.shape.takes_guidance else None,
        img_ids=places, txt_ids=torch.zeros(WORDS, 3), return_dict=False,
    )[0]  # fmt: skip
    return ours(tokens, told, 1, Residuals(), ROWS * COLUMNS), expected


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("takes_guidance", [True, False])
def test_every_layout_answers_as_diffusers_does(tmp_path: Path, layout: str, takes_guidance: bool) -> None:
    network = checkpoints.network(takes_guidance=takes_guidance)
    write, error = LAYOUTS[layout]
    ours, expected = answers(write(tmp_path, network), network)
    assert torch.dist(ours, expected) <= error * expected.norm()


def test_a_single_file_tells_the_networks_shape(tmp_path: Path) -> None:
    network = checkpoints.network()
    told = open_checkpoint(a_file_of_the_makers(tmp_path, network)).shape
    assert told == open_checkpoint(a_folder(tmp_path, network)).shape


def test_a_layer_is_read_alone_as_diffusers_names_it(tmp_path: Path) -> None:
    network = checkpoints.network()
    theirs = network.state_dict()
    checkpoint = open_checkpoint(a_file_of_the_makers(tmp_path, network))
    for name, part in checkpoint.parts.items():
        assert torch.equal(checkpoint.weight(part, CPU), theirs[f"{name}.weight"]), name
        assert torch.equal(_bias(checkpoint, name), theirs[f"{name}.bias"]), name


def _bias(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    bias = checkpoint.bias(checkpoint.parts[name], CPU)
    assert bias is not None
    return bias


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("name", ["it.safetensors", "it.gguf", "it.bin", "it.pt", "it.ckpt", "it.pth", "it"])
def test_a_pickle_is_refused_and_never_opened(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "it went off"
    torch.save({"img_in.weight": Bomb(marker)}, tmp_path / name)
    with pytest.raises(CheckpointError, match="is no"):
        open_checkpoint(tmp_path / name)
    assert not marker.exists()


def test_a_folder_of_pickles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    torch.save({}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        open_checkpoint(tmp_path)


def test_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"it.safetensors holds no FLUX network"):
        open_checkpoint(saved(tmp_path, {"model.layers.0.weight": torch.zeros(2, 2)}))


def test_a_missing_layer_is_named(tmp_path: Path) -> None:
    state = checkpoints.as_its_makers_write_it(checkpoints.network())
    del state["double_blocks.1.txt_mlp.0.weight"]
    with pytest.raises(CheckpointError, match=r"it.safetensors holds no double_blocks.1.txt_mlp.0.weight"):
        open_checkpoint(saved(tmp_path, state))


def test_a_layer_that_is_too_small_is_named(tmp_path: Path) -> None:
    state = checkpoints.as_its_makers_write_it(checkpoints.network())
    state["single_blocks.0.linear1.weight"] = state["single_blocks.0.linear1.weight"][:100]
    with pytest.raises(CheckpointError, match=r"single_blocks.0.linear1.weight has 100 rows, too few for its place"):
        open_checkpoint(saved(tmp_path, state))


@pytest.mark.parametrize("length", [0, 3, 50, 5000])
@pytest.mark.parametrize("layout", ["a file of the makers", "GGUF, Q8_0"])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, layout: str, length: int) -> None:
    write, _ = LAYOUTS[layout]
    path = write(tmp_path, checkpoints.network())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError):
        open_checkpoint(path)
