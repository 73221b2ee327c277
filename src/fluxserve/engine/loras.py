"""LoRAs: small additions to a transformer's weights (Hu et al., 2021), put on for one generation and off for the next.

They are merged: the layers that a LoRA adds to are filled anew, with the checkpoint's weights and the addition, and as
they were when it is taken off. Each begins with the checkpoint, so that nothing is left of any before; a step of a
drawing costs the same with and without one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

import torch

from fluxserve.domain.generation import Lora
from fluxserve.engine.flux import Own
from fluxserve.engine.kept import Kept
from fluxserve.engine.lora_files import Addition, LoraError, read
from fluxserve.engine.network import Transformer
from fluxserve.engine.network.layers import layer_at
from fluxserve.engine.sources import CannotDraw, Sources

MOST_KEPT = 8  # of each transformer

Worn = tuple[str, float]
"""A LoRA's version, and its strength."""


@dataclass
class _Wardrobe:
    """A transformer's: the LoRAs that are kept, the one that is on, the layers that are not as in the checkpoint."""

    kept: Kept[str, dict[str, Addition]]
    worn: Worn | None = None
    changed: set[str] = field(default_factory=set)


class Loras:
    """Those of all transformers in this process; the ones used last are kept loaded.

    `find` gives a name's file, and raises `LoraError` where there is none.
    """

    def __init__(self, find: Callable[[str], Path], most_kept: int = MOST_KEPT) -> None:
        self._find = find
        self._most_kept = most_kept
        self._wardrobes: WeakKeyDictionary[Transformer, _Wardrobe] = WeakKeyDictionary()

    @torch.no_grad()
    def put_on(self, own: Own, lora: Lora | None) -> None:
        """Have a member draw with this one and no other. Raises `LoraError`, and then nothing has changed."""
        wardrobe = self._wardrobes.setdefault(own.transformer, _Wardrobe(Kept(self._most_kept)))
        worn, additions = self._chosen(own, wardrobe, lora)
        if worn == wardrobe.worn and (worn or not wardrobe.changed):
            return
        wardrobe.worn = None  # should this break off, the next one begins with all that may have been changed
        wardrobe.changed |= additions.keys()
        for name in sorted(wardrobe.changed):
            _fill(own, name, additions.get(name), lora.strength if lora else 0.0)
        wardrobe.worn, wardrobe.changed = worn, set(additions)

    def kept(self, own: Own) -> int:
        """How many of a member's are loaded."""
        wardrobe = self._wardrobes.get(own.transformer)
        return len(wardrobe.kept) if wardrobe else 0

    def _chosen(self, own: Own, wardrobe: _Wardrobe, lora: Lora | None) -> tuple[Worn | None, Mapping[str, Addition]]:
        if lora is None:
            return None, {}
        path = self._find(lora.name)
        version = f"{path}:{path.stat().st_mtime_ns}"  # a file that was replaced is another LoRA
        additions = wardrobe.kept.get(version, lambda: read(lora.name, path, own.checkpoint))
        return (version, lora.strength), additions


def _fill(own: Own, name: str, addition: Addition | None, strength: float) -> None:
    """A layer, by diffusers' name, as the checkpoint has it, and more if there is an addition."""
    checkpoint, part = own.checkpoint, own.checkpoint.parts[name]
    layer = layer_at(own.transformer, part.path)
    device = layer.weight.device
    # A spare copy is on another device than a layer that is kept on the host.
    weight, bias = checkpoint.weight(part, device).to(device, layer.bias.dtype), checkpoint.bias(part, device)
    if addition is not None:
        weight = weight.float() + addition.weight(device, strength)
        if addition.bias is not None:
            more = addition.bias.to(device).float() * addition.scale(strength)
            bias = more if bias is None else bias.float() + more
    layer.fill(part.first, weight, bias)


def finder(files: Mapping[str, str], sources: Sources, own_folder: Path | None) -> Callable[[str], Path]:
    """Looks a name up: `own_folder`'s file of that name first, then the catalogue's."""

    def find(name: str) -> Path:
        own = own_folder / f"{name}.safetensors" if own_folder and Path(name).name == name else None
        if own and own.is_file():
            return own
        if name not in files:
            raise LoraError(f"LoRA {name}: there is none of this name here")
        try:
            return sources.file(files[name])
        except CannotDraw as error:
            raise LoraError(f"LoRA {name}: {error}") from error

    return find
