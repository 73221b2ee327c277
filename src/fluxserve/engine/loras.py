"""LoRAs: small additions to a transformer's weights (Hu et al., 2021), put on for one generation and off for the next.

The weights themselves are never changed: an addition runs beside them, and while none is on the transformer gives the
very same answers as before. Files may be laid out as diffusers, Kohya's scripts or XLabs write them.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from weakref import WeakKeyDictionary

from diffusers import FluxPipeline, FluxTransformer2DModel
from safetensors import SafetensorError, safe_open

from fluxserve.domain.generation import Lora
from fluxserve.engine.sources import CannotDraw, file_of

MOST_KEPT = 8  # of each transformer
MOST_BYTES = 2 << 30
MOST_RANK = 512
ALLOWED_TYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


class LoraError(CannotDraw):
    """A LoRA can't be put on; the message says which, and why."""


class Loras:
    """Those of all transformers in this process; the ones used last are kept loaded.

    `find` gives a name's file, and raises `LoraError` where there is none.
    """

    def __init__(self, find: Callable[[str], Path], most_kept: int = MOST_KEPT) -> None:
        self._find = find
        self._most_kept = most_kept
        self._kept: WeakKeyDictionary[FluxTransformer2DModel, OrderedDict[str, str]] = WeakKeyDictionary()

    def put_on(self, transformer: FluxTransformer2DModel, lora: Lora | None) -> None:
        """Have `transformer` draw with this one and no other. Raises `LoraError`, and then it draws with none."""
        kept = self._kept.setdefault(transformer, OrderedDict())
        if kept:
            transformer.disable_lora()
        if lora is None:
            return
        path = self._find(lora.name)
        version = f"{path}:{path.stat().st_mtime_ns}"  # a file that was replaced is another LoRA
        if version not in kept:
            _load(transformer, lora.name, path, adapter := f"lora_{_number(kept)}")
            kept[version] = adapter
        kept.move_to_end(version)
        if len(kept) > self._most_kept:
            _, oldest = kept.popitem(last=False)
            transformer.delete_adapters(oldest)
        transformer.enable_lora()
        transformer.set_adapters([kept[version]], [lora.strength])


def finder(files: Mapping[str, str], mini_folder: Path, own_folder: Path | None) -> Callable[[str], Path]:
    """Looks a name up: `own_folder`'s file of that name first, then the catalogue's, downloaded if need be."""

    def find(name: str) -> Path:
        own = own_folder / f"{name}.safetensors" if own_folder and Path(name).name == name else None
        if own and own.is_file():
            return own
        if name not in files:
            raise LoraError(f"LoRA {name}: there is none of this name here")
        try:
            return file_of(files[name], mini_folder)
        except CannotDraw as error:
            raise LoraError(f"LoRA {name}: {error}") from error

    return find


def _number(kept: OrderedDict[str, str]) -> int:
    """One that no kept adapter has."""
    taken = set(kept.values())
    return next(number for number in range(len(taken) + 1) if f"lora_{number}" not in taken)


def _load(transformer: FluxTransformer2DModel, name: str, path: Path, adapter: str) -> None:
    _check_header(name, path)
    try:
        weights, alphas = FluxPipeline.lora_state_dict(str(path), return_alphas=True, use_safetensors=True)
        fitting = {key: weight for key, weight in weights.items() if key.startswith("transformer.")}
        if not fitting:
            raise LoraError(f"LoRA {name}: nothing in its file is for a FLUX transformer")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several at once are what we want
            # Its text encoder's part, if it has one, is left out: prompts are read once for all LoRAs.
            transformer.load_lora_adapter(fitting, network_alphas=alphas, adapter_name=adapter)
    except LoraError:
        raise
    except Exception as error:
        transformer.delete_adapters(adapter)  # diffusers leaves half of it behind
        raise LoraError(f"LoRA {name}: its file does not fit the model") from error
    for parameter in transformer.parameters():
        parameter.requires_grad_(False)


def _check_header(name: str, path: Path) -> None:
    """Look at what a file says of itself before any of it is loaded. Raises `LoraError`."""
    if path.stat().st_size > MOST_BYTES:
        raise LoraError(f"LoRA {name}: its file is larger than {MOST_BYTES} bytes")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            shapes = {key: part.get_shape() for key, part in slices.items()}
            types = {part.get_dtype() for part in slices.values()}
    except (SafetensorError, OSError) as error:
        raise LoraError(f"LoRA {name}: its file is no safetensors file") from error
    if strange := types - set(ALLOWED_TYPES):
        raise LoraError(f"LoRA {name}: its file holds {', '.join(sorted(strange))}; allowed are floating point numbers")
    for key, shape in shapes.items():
        if len(shape) > 2 or (len(shape) == 2 and "lora" in key and min(shape) > MOST_RANK):
            size = "x".join(map(str, shape))
            raise LoraError(f"LoRA {name}: {key} is {size}; allowed is a rank of {MOST_RANK} at most")
