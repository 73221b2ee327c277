"""LoRAs: small additions to a transformer's weights (Hu et al., 2021), put on for one generation and off for the next.

The weights themselves are never changed: an addition runs beside its layer, as a hook on it, and while none is on the
transformer is as it was loaded.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from diffusers import FluxTransformer2DModel
from torch.utils.hooks import RemovableHandle

from fluxserve.domain.generation import Lora
from fluxserve.engine.lora_files import Addition, LoraError, read
from fluxserve.engine.sources import CannotDraw, file_of

MOST_KEPT = 8  # of each transformer


@dataclass
class _Wardrobe:
    """A transformer's: LoRAs that are kept, the one used last at the end, and the hooks of the one that is on."""

    kept: OrderedDict[str, dict[str, Addition]] = field(default_factory=OrderedDict)
    worn: list[RemovableHandle] = field(default_factory=list)


class Loras:
    """Those of all transformers in this process; the ones used last are kept loaded.

    `find` gives a name's file, and raises `LoraError` where there is none.
    """

    def __init__(self, find: Callable[[str], Path], most_kept: int = MOST_KEPT) -> None:
        self._find = find
        self._most_kept = most_kept
        self._wardrobes: WeakKeyDictionary[FluxTransformer2DModel, _Wardrobe] = WeakKeyDictionary()

    def put_on(self, transformer: FluxTransformer2DModel, lora: Lora | None) -> None:
        """Have `transformer` draw with this one and no other. Raises `LoraError`, and then it draws with none."""
        wardrobe = self._wardrobes.setdefault(transformer, _Wardrobe())
        while wardrobe.worn:
            wardrobe.worn.pop().remove()
        if lora is None:
            return
        for layer, addition in self._additions(transformer, wardrobe, lora.name).items():
            hook = _beside(addition, lora.strength)
            wardrobe.worn.append(transformer.get_submodule(layer).register_forward_hook(hook))

    def kept(self, transformer: FluxTransformer2DModel) -> int:
        """How many of `transformer`'s are loaded."""
        return len(self._wardrobes.get(transformer, _Wardrobe()).kept)

    def _additions(self, transformer: FluxTransformer2DModel, wardrobe: _Wardrobe, name: str) -> dict[str, Addition]:
        path = self._find(name)
        version = f"{path}:{path.stat().st_mtime_ns}"  # a file that was replaced is another LoRA
        if version not in wardrobe.kept:
            wardrobe.kept[version] = read(name, path, transformer)
        wardrobe.kept.move_to_end(version)
        if len(wardrobe.kept) > self._most_kept:
            wardrobe.kept.popitem(last=False)
        return wardrobe.kept[version]


def _beside(addition: Addition, strength: float) -> Callable[..., torch.Tensor]:
    """A hook that adds to a layer's answer."""

    def add(_layer: torch.nn.Module, given: tuple[torch.Tensor], answer: torch.Tensor) -> torch.Tensor:
        return answer + addition.of(given[0], strength)

    return add


def finder(
    files: Mapping[str, str], mini_folder: Path, own_folder: Path | None, weights_folder: Path | None = None
) -> Callable[[str], Path]:
    """Looks a name up: `own_folder`'s file of that name first, then the catalogue's."""

    def find(name: str) -> Path:
        own = own_folder / f"{name}.safetensors" if own_folder and Path(name).name == name else None
        if own and own.is_file():
            return own
        if name not in files:
            raise LoraError(f"LoRA {name}: there is none of this name here")
        try:
            return file_of(files[name], mini_folder, weights_folder)
        except CannotDraw as error:
            raise LoraError(f"LoRA {name}: {error}") from error

    return find
