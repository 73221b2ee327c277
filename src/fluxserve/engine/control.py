"""Control: a map of a picture's edges, depth or poses, as a control network is shown it."""

import torch

from fluxserve.domain.generation import Control
from fluxserve.engine.flux import Flux
from fluxserve.engine.latents import pack
from fluxserve.engine.pictures import latents_of, picture_from
from fluxserve.engine.png import Pixels
from fluxserve.engine.seen import Seen
from fluxserve.engine.velocity import ControlMap


def control_map(
    flux: Flux, control: Control, png: bytes, annotated: Pixels, seen: Seen, generator: torch.Generator
) -> ControlMap:
    """What the control network is shown of a picture's map, which has the size that is drawn."""
    if flux.control is None:
        raise TypeError(f"{flux.row.own} has no control network")
    key = ("map", control.type, png, annotated.shape)
    posterior = seen.posterior(flux, key, lambda: picture_from(annotated))
    latents = latents_of(flux.shared.vae, posterior, generator)
    return ControlMap(flux.control, pack(latents), flux.row.control_modes.get(control.type), control.strength)
