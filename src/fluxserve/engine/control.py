"""Control: a map of a picture's edges, depth or poses, as a control network is shown it."""

import torch

from fluxserve.domain.generation import Control
from fluxserve.engine.latents import pack
from fluxserve.engine.pictures import encode_picture, picture_from
from fluxserve.engine.png import Pixels
from fluxserve.engine.velocity import ControlMap
from fluxserve.engine.weights import Flux


def control_map(flux: Flux, control: Control, annotated: Pixels, generator: torch.Generator) -> ControlMap:
    """What the control network is shown of a map, which has the size that is drawn."""
    if flux.control is None:
        raise TypeError(f"{flux.row.own} has no control network")
    latents = encode_picture(flux.shared.vae, picture_from(annotated), generator, flux.device, flux.dtype)
    return ControlMap(flux.control, pack(latents), flux.row.control_modes.get(control.type), control.strength)
