"""Control: a map of a picture's edges, depth or pose, as a control network is shown it."""

from collections.abc import Mapping

import torch

from fluxserve.domain.generation import Control
from fluxserve.engine.annotators import annotate
from fluxserve.engine.latents import pack
from fluxserve.engine.pictures import encode_picture, picture_from
from fluxserve.engine.velocity import ControlMap
from fluxserve.engine.weights import Flux


def control_map(
    flux: Flux, control: Control, images: Mapping[str, bytes], size: tuple[int, int], generator: torch.Generator
) -> ControlMap:
    """The map of the control's picture, at the size that is drawn."""
    if flux.control is None:
        raise TypeError(f"{flux.row.own} has no control network")
    picture = picture_from(annotate(control.type, images[control.image], size))
    latents = encode_picture(flux.shared.vae, picture, generator, flux.device, flux.dtype)
    number = flux.row.control_modes.get(control.type)
    mode = None if number is None else torch.tensor([[number]], device=flux.device)
    return ControlMap(flux.control, pack(latents), mode, control.strength)
