"""Small networks of random weights, and a step of theirs: the same numbers on every device."""

import torch

from fluxserve.engine.latents import positions
from fluxserve.engine.network import ControlNetwork, Keeping, Precision, Residuals, Shape, Told, Transformer
from fluxserve.engine.network.layers import Layer, layer_at

CPU = torch.device("cpu")
SHAPE = Shape(16, 16, 32, 32, 2, 64, doubles=2, singles=3, takes_guidance=True, axes=(16, 24, 24))

Network = Transformer | ControlNetwork


def made(
    kind: type[Network],
    shape: Shape,
    precision: Precision,
    seed: int,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
) -> Network:
    generator = torch.Generator().manual_seed(seed)
    network = kind(shape, Keeping(device, dtype, precision))
    for path, layer in network.named_modules():
        if hasattr(layer, "fill"):
            size = layer.bias.shape[0], _width_in(layer_at(network, path))
            weight, bias = 0.1 * torch.randn(size, generator=generator), torch.randn(size[0], generator=generator)
            layer.fill(0, weight.to(device), bias.to(device))
    for name, weight in network.named_parameters():
        if name.endswith("_norm"):
            weight.fill_(1)
    return network


def told_to(network: Network, rows: int, columns: int, words: int, reference: int = 0, seed: int = 0) -> Told:
    """What it is told of a picture of random words, in two steps."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.cat((positions(rows, columns), positions(1, reference, 1)))
    weight = network.trunk.image_in.weight
    said, pooled = torch.randn(1, words, 32, generator=generator), torch.randn(1, 32, generator=generator)
    timesteps, guidance = torch.tensor([900.0, 500.0]), 3.5 if network.trunk.shape.takes_guidance else None
    return network.trunk.tell(said.to(weight), pooled.to(weight), timesteps, guidance, places)


def shown_to(network: Network, tokens: int, seed: int = 0) -> torch.Tensor:
    """Random tokens."""
    generator, weight = torch.Generator().manual_seed(seed), network.trunk.image_in.weight
    return torch.randn(1, tokens, network.trunk.shape.channels_in, generator=generator).to(weight)


def step(network: Network, rows: int, columns: int, words: int, reference: int = 0) -> torch.Tensor:
    told, tokens = told_to(network, rows, columns, words, reference), shown_to(network, rows * columns + reference)
    if isinstance(network, ControlNetwork):
        return network.forward(tokens, network.map_in(tokens), told, 1).doubles[0]
    answer: torch.Tensor = network(tokens, told, 1, Residuals(), rows * columns)
    return answer


def _width_in(layer: Layer) -> int:
    return layer.weight.shape[1] * (2 if layer.weight.dtype == torch.uint8 else 1)
