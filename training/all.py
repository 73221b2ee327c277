"""Make the whole mini family, in order: every part taught, then measured, then shown.

    python -m training.all
    python -m training.all --minutes-scale 0.5

Parts that were begun earlier go on from their checkpoints.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from training import annotators, control, edit, evaluate, fill, flow, gallery, loras, measures, text, vae, variation
from training.sitting import device

PLAIN = 0.1  # share of the base's scenes that are one big thing in the centre
PICTURES = 200


@dataclass(frozen=True)
class Stage:
    """One part's training, and the minutes it takes on either kind of machine."""

    name: str
    train: Callable[[float], None]
    on_cpu: float
    on_gpu: float


STAGES = (
    Stage("vae", vae.train, on_cpu=60, on_gpu=12),
    Stage("text", text.train, on_cpu=4, on_gpu=2),
    Stage("base", partial(flow.train_base, plain=PLAIN), on_cpu=300, on_gpu=20),
    Stage("dev", flow.train_dev, on_cpu=40, on_gpu=5),
    Stage("schnell", flow.train_schnell, on_cpu=40, on_gpu=5),
    Stage("fill, what is known", fill.train_known, on_cpu=60, on_gpu=6),
    Stage("fill, guided", fill.train_guided, on_cpu=20, on_gpu=3),
    Stage("edit, what was seen", edit.train_seen, on_cpu=90, on_gpu=8),
    Stage("edit, guided", edit.train_guided, on_cpu=30, on_gpu=3),
    Stage("variation", variation.train, on_cpu=20, on_gpu=2),
    Stage("soft edges", annotators.train_soft_edge, on_cpu=10, on_gpu=1),
    Stage("depth", annotators.train_depth, on_cpu=10, on_gpu=1),
    Stage("poses", annotators.train_pose, on_cpu=15, on_gpu=1),
    Stage("control", control.train, on_cpu=80, on_gpu=6),
    Stage("loras", partial(loras.train, names=[]), on_cpu=90, on_gpu=12),
)


def make_family(minutes_scale: float) -> None:
    for stage in STAGES:
        minutes = minutes_scale * (stage.on_gpu if device().type == "cuda" else stage.on_cpu)
        print(f"{stage.name}: {minutes:g} minutes", flush=True)
        stage.train(minutes)
    evaluate.evaluate(PICTURES, (*evaluate.MEMBERS, *measures.MEASURES))
    gallery.show(tuple(gallery.SHEETS))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes-scale", type=float, default=1.0, help="how long, against the usual minutes")
    make_family(parser.parse_args().minutes_scale)
