"""FLUX's networks as we run them: the transformer and its control networks, made for a sampling loop.

They compute what diffusers' networks do, from the same checkpoints, which the tests hold them to. What does not change
from step to step is computed once a picture, layers that read the same states are one, and the layers keep their
weights where a LoRA can be added to them without anything else noticing. It knows nothing of files or pictures.
"""

from fluxserve.engine.network.control_network import ControlNetwork
from fluxserve.engine.network.layers import Keeping, Precision
from fluxserve.engine.network.replay import ReplayedControl, ReplayedTransformer
from fluxserve.engine.network.shape import Shape
from fluxserve.engine.network.transformer import Residuals, Transformer
from fluxserve.engine.network.trunk import Told

__all__ = [
    "ControlNetwork",
    "Keeping",
    "Precision",
    "ReplayedControl",
    "ReplayedTransformer",
    "Residuals",
    "Shape",
    "Told",
    "Transformer",
]
