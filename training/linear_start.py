"""Start the autoencoder as a good linear one, instead of at random.

A deep convolutional autoencoder spends its first thousands of steps learning to pass anything through at all. Here
every residual branch starts at zero, each halving starts as the principal components of its 2x2 neighbourhoods, and
each doubling as the least-squares answer from the decoder's features to the encoder's at the same level (layer by
layer, in closed form). What gradient descent finds is then a picture already, only blurred.
"""

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F


@torch.no_grad()
def start_linear(vae: AutoencoderKL, pictures: torch.Tensor) -> None:
    """Set the weights of `vae` from `pictures`, (n, 3, h, w) in [-1, 1]; some hundred crops are enough."""
    _silence_residuals(vae)
    features = _start_encoder(vae.encoder, pictures)
    latents = vae.encode(pictures).latent_dist.mean
    _start_decoder(vae.decoder, latents, features, pictures)


def _silence_residuals(vae: AutoencoderKL) -> None:
    part: Any
    for part in vae.modules():
        if hasattr(part, "conv_shortcut"):
            part.conv2.weight.zero_()
            part.conv2.bias.zero_()
            if part.conv_shortcut is not None:
                _pass_through(part.conv_shortcut)
        if hasattr(part, "to_out"):
            part.to_out[0].weight.zero_()
            part.to_out[0].bias.zero_()


def _pass_through(conv: torch.nn.Conv2d) -> None:
    """Input channel i becomes output channel i; channels beyond start small."""
    weight, bias = _parameters(conv)
    weight.mul_(0.05)
    bias.zero_()
    middle = conv.kernel_size[0] // 2
    for channel in range(min(conv.in_channels, conv.out_channels)):
        weight[channel].zero_()
        weight[channel, channel, middle, middle] = 1.0


def _start_encoder(encoder: Any, pictures: torch.Tensor) -> list[torch.Tensor]:
    """Returns the features at every level, finest first, before each halving."""
    _pass_through(encoder.conv_in)
    hidden = encoder.conv_in(pictures)
    levels = []
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            hidden = resnet(hidden, None)
        levels.append(hidden)
        if block.downsamplers:
            conv = block.downsamplers[0].conv
            _principal_components(conv, hidden)
            hidden = block.downsamplers[0](hidden)
    hidden = encoder.mid_block(hidden)
    seen = encoder.conv_act(encoder.conv_norm_out(hidden))
    wanted = _whitened(hidden, encoder.conv_out.out_channels // 2)
    encoder.conv_out.weight.zero_()
    encoder.conv_out.bias.fill_(-5.0)  # log-variance: the posterior starts narrow
    _least_squares(encoder.conv_out, seen, wanted)
    return levels


def _principal_components(conv: torch.nn.Conv2d, hidden: torch.Tensor) -> None:
    """The halving (3x3, stride 2, padded right and below) keeps most of each 2x2 neighbourhood's variance."""
    patches = F.pixel_unshuffle(hidden, 2).transpose(0, 1).flatten(1)  # (4C, n*h*w), channel-major
    _, _, basis = torch.linalg.svd(_sampled(patches.T), full_matrices=False)
    keep = min(conv.out_channels, basis.shape[0])
    turn = torch.linalg.qr(torch.randn(keep, keep, device=basis.device)).Q  # shares the variance among the channels
    kept = (turn @ basis[:keep]).unflatten(1, (conv.in_channels, 2, 2))
    weight, bias = _parameters(conv)
    weight.mul_(0.05)
    weight[:keep].zero_()
    weight[:keep, :, :2, :2] = kept
    bias.zero_()


def _whitened(hidden: torch.Tensor, channels: int) -> torch.Tensor:
    flat = hidden.transpose(0, 1).flatten(1).T
    flat = flat - flat.mean(0)
    _, _, basis = torch.linalg.svd(_sampled(flat), full_matrices=False)
    turn = torch.linalg.qr(torch.randn(channels, channels, device=basis.device)).Q
    chosen = flat @ basis[:channels].T @ turn
    chosen = chosen / chosen.std()
    maps: torch.Tensor = chosen.T.unflatten(1, (hidden.shape[0], *hidden.shape[2:])).transpose(0, 1)
    return maps


def _start_decoder(decoder: Any, latents: torch.Tensor, levels: list[torch.Tensor], pictures: torch.Tensor) -> None:
    _least_squares(decoder.conv_in, latents, levels[-1])
    hidden = decoder.mid_block(decoder.conv_in(latents))
    for block, wanted in zip(decoder.up_blocks, [*reversed(levels[:-1]), None], strict=True):
        for resnet in block.resnets:
            hidden = resnet(hidden, None)
        if wanted is not None:
            doubled = F.interpolate(hidden, scale_factor=2.0, mode="nearest")
            _least_squares(block.upsamplers[0].conv, doubled, wanted)
            hidden = block.upsamplers[0](hidden)
    _least_squares(decoder.conv_out, decoder.conv_act(decoder.conv_norm_out(hidden)), pictures)


def _least_squares(conv: torch.nn.Conv2d, seen: torch.Tensor, wanted: torch.Tensor) -> None:
    """The 3x3 convolution that best answers `wanted` from `seen` (ridge), in its first channels."""
    channels = min(conv.out_channels, wanted.shape[1])
    windows = F.unfold(seen, 3, padding=1).transpose(1, 2).flatten(0, 1)  # (n*h*w, 9C)
    answers = wanted[:, :channels].flatten(2).transpose(1, 2).flatten(0, 1)
    chosen = torch.randperm(len(windows), device=windows.device)[:20_000]
    windows, answers = windows[chosen], answers[chosen]
    windows = torch.cat((windows, torch.ones(len(windows), 1, device=windows.device)), 1)
    gram = windows.T @ windows
    gram.diagonal().add_(1e-2 * gram.diagonal().mean())
    solution = torch.linalg.solve(gram, windows.T @ answers).T
    weight, bias = _parameters(conv)
    weight[:channels] = solution[:, :-1].unflatten(1, (conv.in_channels, 3, 3))
    bias[:channels] = solution[:, -1]


def _parameters(conv: torch.nn.Conv2d) -> tuple[torch.Tensor, torch.Tensor]:
    assert conv.bias is not None
    return conv.weight, conv.bias


def _sampled(rows: torch.Tensor, most: int = 20_000) -> torch.Tensor:
    return rows[torch.randperm(len(rows), device=rows.device)[:most]]
