"""Teach the annotators: small networks that see soft edges, depth and poses in a picture, for the control maps.

    python -m training.annotators soft_edge --minutes 4
    python -m training.annotators depth --minutes 6
    python -m training.annotators pose --minutes 6

Their answers are known, for the world was painted from them. Pictures are spoilt a little before they are shown, since
callers' pictures are not the world's own. What they learn has the shape of the field's own networks, which the same
code runs: DexiNed's edges and RTMPose's columns and rows as ONNX files, and a small Depth Anything.
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessorPil

from fluxserve.engine.annotators import pose, soft_edge
from training import maps, world
from training.sitting import FAMILY, Average, Sitting, device, sit_together

FOLDER = FAMILY / "annotators"
SIDE = 256  # pixels of a picture
BATCH = 16
RATE = 2e-3
DECAY = 0.995
Floats = NDArray[np.float32]


# ---------------------------------------------------------------- pictures to learn from


def imagine(rng: np.random.Generator, people: float) -> world.Scene:
    """A scene that training may see; `people` is the share of those made with somebody in them."""
    while rng.random() < people:
        scene = someone_anywhere(rng)
        if not scene.is_held_out:
            return scene
    return world.imagine(rng, held_out=False)


def someone_anywhere(rng: np.random.Generator) -> world.Scene:
    """Somebody of any height at any pixel: callers' pictures know no grid."""
    scene = world.someone(rng, world.BACKGROUNDS[rng.integers(len(world.BACKGROUNDS))])
    side = int(rng.integers(SIDE // 2, SIDE + 1))
    left, top = (int(rng.integers(SIDE - side + 1)) for _ in range(2))
    return replace(scene, items=(replace(scene.items[0], side=side, left=left, top=top),))


def spoilt(picture: world.Pixels, rng: np.random.Generator) -> world.Pixels:
    """The same picture, a little worse: dimmer or brighter, out of focus, grainy, compressed."""
    seen: NDArray[np.floating[Any]] = picture.astype(np.float32)
    if rng.random() < 0.5:
        seen = seen * rng.uniform(0.7, 1.2) + rng.uniform(-20, 20, 3)
    if rng.random() < 0.3:
        seen = np.asarray(cv2.GaussianBlur(seen, (0, 0), rng.uniform(0.5, 1.5)), np.float32)
    if rng.random() < 0.5:
        seen = seen + rng.normal(0, rng.uniform(1, 10), picture.shape)
    levels: world.Pixels = np.clip(np.rint(seen), 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        file = BytesIO()
        Image.fromarray(levels).save(file, "jpeg", quality=int(rng.integers(40, 95)))
        levels = np.asarray(Image.open(file))
    return levels


def lesson(
    rng: np.random.Generator, people: float, answer: Callable[[world.Scene], Floats]
) -> tuple[world.Pixels, Floats]:
    """Pictures, (n, 256, 256, 3), and what should be seen in each."""
    scenes = [imagine(rng, people) for _ in range(BATCH)]
    return np.stack([spoilt(world.paint(scene), rng) for scene in scenes]), np.stack([answer(s) for s in scenes])


def _teach(
    name: str,
    minutes: float,
    network: nn.Module,
    draw: Callable[[np.random.Generator], tuple[world.Pixels, Floats]],
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    """Adam on fresh pictures without end; leaves the network with its averaged weights."""
    torch.nn.Module.to(network, device()).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    sitting, average = Sitting(f"annotator_{name}", minutes, RATE), Average(network, DECAY)
    if state := sitting.load():
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.weights, average.updates = state["average"], state["updates"]
    rng, parameters = np.random.default_rng(sitting.steps), list(network.parameters())
    while sitting.lasts():
        pictures, answers = draw(rng)
        seen = torch.from_numpy(pictures).to(device()).permute(0, 3, 1, 2).float()
        sitting.step(optimizer, loss_of(seen, torch.from_numpy(answers).to(device())), parameters)
        average.update(network)
    sitting.save(
        model=network.state_dict(),
        optimizer=optimizer.state_dict(),
        average=average.weights,
        updates=average.updates,
    )
    network.load_state_dict(average.weights)
    network.eval()


# ---------------------------------------------------------------- soft edges


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.GroupNorm(4, outputs), nn.SiLU()
    )


class EdgeNetwork(nn.Module):
    """(n, 3, h, w), as `soft_edge` shows it, -> logits, (n, 1, h, w). Sides are multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = _convolution(3, 24, 2)
        self.middle = nn.Sequential(_convolution(24, 32, 2), _convolution(32, 32))
        self.coarse = nn.Sequential(_convolution(32, 48, 2), _convolution(48, 48))
        self.back = _convolution(48 + 32, 32)
        self.out = nn.Sequential(_convolution(32 + 24, 24), nn.Conv2d(24, 4, 1), nn.PixelShuffle(2))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        fine = self.fine(pictures / 64)
        middle = self.middle(fine)
        coarse = F.interpolate(self.coarse(middle), scale_factor=2.0, mode="nearest")
        back = F.interpolate(self.back(torch.cat((coarse, middle), 1)), scale_factor=2.0, mode="nearest")
        logits: torch.Tensor = self.out(torch.cat((back, fine), 1))
        return logits


def train_soft_edge(minutes: float) -> None:
    network, mean = EdgeNetwork(), torch.from_numpy(soft_edge.MEAN).to(device()).view(1, 3, 1, 1)

    def loss_of(seen: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        logits = network(seen.flip(1) - mean)[:, 0]
        return F.binary_cross_entropy_with_logits(logits, edges, weight=1 + 4 * edges)

    _teach("soft_edge", minutes, network, lambda rng: lesson(rng, 0.15, maps.soft_edges), loss_of)
    free = {2: "height", 3: "width"}
    _write_onnx(network, "soft_edge", torch.zeros(1, 3, SIDE, SIDE), ["edges"], {"picture": free, "edges": free})


# ---------------------------------------------------------------- depth


def depth_network() -> DepthAnythingForDepthEstimation:
    """Depth Anything's classes, at the size of a stamp."""
    stages = [f"stage{number}" for number in (1, 2, 3, 4)]
    # Of weights at the start: the usual, for layers so thin, lets next to nothing through.
    spread = 0.1
    seen = Dinov2Config(  # type: ignore[call-arg]
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, image_size=SIDE // 2, patch_size=8,
        out_features=stages, reshape_hidden_states=False, initializer_range=spread,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=seen, patch_size=8, reassemble_hidden_size=64, neck_hidden_sizes=[16, 24, 32, 32],
        fusion_hidden_size=24, head_hidden_size=16, initializer_range=spread,
    )  # fmt: skip
    return DepthAnythingForDepthEstimation(config)


def depth_processor() -> DPTImageProcessorPil:
    return DPTImageProcessorPil(size={"height": SIDE // 2, "width": SIDE // 2}, ensure_multiple_of=8)


def train_depth(minutes: float) -> None:
    network, processor = depth_network(), depth_processor()
    # What it gives below 0 is cut off in use; while it learns it must know of it, or it gives 0 for ever.
    network.head.activation2 = nn.LeakyReLU(0.1)  # type: ignore[assignment]
    mean, deviation = (
        torch.tensor(values, device=device()).view(1, 3, 1, 1) for values in (processor.image_mean, processor.image_std)
    )

    def loss_of(seen: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
        small = F.interpolate(seen, scale_factor=0.5, mode="bilinear", antialias=True)
        answer: torch.Tensor = network(pixel_values=(small / 255 - mean) / deviation).predicted_depth
        off: torch.Tensor = answer - F.interpolate(near[:, None], scale_factor=0.5, mode="area")[:, 0]
        steps = off.diff(dim=1).abs().mean() + off.diff(dim=2).abs().mean()
        total: torch.Tensor = off.square().mean() + 0.3 * steps
        return total

    _teach("depth", minutes, network, lambda rng: lesson(rng, 0.15, maps.depth), loss_of)
    torch.nn.Module.to(network, torch.bfloat16)
    network.save_pretrained(FOLDER / "depth")
    processor.save_pretrained(FOLDER / "depth")


# ---------------------------------------------------------------- poses


class PoseNetwork(nn.Module):
    """(n, 3, 256, 256), as `pose` shows it, -> how likely each joint lies in each of 128 columns and rows, two of
    (n, 17, 128)."""

    JOINTS = 17
    BINS = SIDE // 2

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(3, 16, 2), _convolution(16, 24, 2), _convolution(24, 32, 2), _convolution(32, 48, 2),
            _convolution(48, 48), _convolution(48, 48), nn.Conv2d(48, 2 * self.JOINTS, 1),
        )  # fmt: skip
        self.columns, self.rows = (nn.Linear((SIDE // 16) ** 2, self.BINS) for _ in range(2))

    def logits(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features: torch.Tensor = self.body(pictures).flatten(2)
        columns: torch.Tensor = self.columns(features[:, : self.JOINTS])
        rows: torch.Tensor = self.rows(features[:, self.JOINTS :])
        return columns, rows

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        columns, rows = self.logits(pictures)
        return columns.sigmoid(), rows.sigmoid()


SHARPNESS = 3.0  # pixels: how far beside a joint its column still counts


def whereabouts(scene: world.Scene) -> Floats:
    """The right answer, (2, 17, 128): 1 at each joint's column and row, less beside them; all 0 where nobody is."""
    answer = np.zeros((2, PoseNetwork.JOINTS, PoseNetwork.BINS), np.float32)
    for person in maps.joints(scene):
        for number, joint in zip(pose.COCO, person, strict=True):
            if number is not None:
                apart = np.arange(0, SIDE, SIDE // PoseNetwork.BINS) - joint[:, None]
                answer[:, number] = np.exp(-0.5 * np.square(apart / SHARPNESS))
    return answer


def train_pose(minutes: float) -> None:
    network = PoseNetwork()
    mean, deviation = (torch.from_numpy(each).to(device()).view(1, 3, 1, 1) for each in (pose.MEAN, pose.DEVIATION))

    def loss_of(seen: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        columns, rows = network.logits((seen - mean) / deviation)
        weight = 1 + 20 * right
        return sum(
            (
                F.binary_cross_entropy_with_logits(answer, right[:, way], weight=weight[:, way])
                for way, answer in enumerate((columns, rows))
            ),
            torch.zeros(()),
        )

    _teach("pose", minutes, network, lambda rng: lesson(rng, 0.8, whereabouts), loss_of)
    _write_onnx(network, "pose", torch.zeros(1, 3, SIDE, SIDE), ["columns", "rows"], {})


def _write_onnx(
    network: nn.Module,
    name: str,
    example: torch.Tensor,
    outputs: list[str],
    free: dict[str, dict[int, str]],
) -> None:
    """`free` names the sides that may differ from the example's."""
    FOLDER.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is a newer exporter, which wants a package more; sizes are constant
        torch.onnx.export(
            network.cpu(), (example,), FOLDER / f"{name}.onnx", dynamo=False, input_names=["picture"],
            output_names=outputs, dynamic_axes=free, opset_version=17,
        )  # fmt: skip


STAGES = {"soft_edge": train_soft_edge, "depth": train_depth, "pose": train_pose}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--minutes", type=float, default=5)
    chosen = parser.parse_args()
    sit_together()
    STAGES[chosen.stage](chosen.minutes)
