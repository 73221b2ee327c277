"""A family of the smallest networks, taught for seconds in a folder of its own: the real programs, made small."""

from collections.abc import Iterator

import pytest

from tests.training.family import MINUTES, Clock, Family
from training import (
    annotators,
    card,
    control,
    edit,
    evaluate,
    fill,
    flow,
    latents,
    loras,
    measures,
    sitting,
    text,
    vae,
    variation,
)

VAE_CONFIG = {
    **vae.CONFIG,
    "block_out_channels": (8, 8, 8, 8, 8),
    "latent_channels": 4,
    "norm_num_groups": 4,
}
FLOW_CONFIG = {**flow.CONFIG, "in_channels": 16, "num_layers": 1, "num_single_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="package")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    """Every part taught once, in order."""
    root = tmp_path_factory.mktemp("mini")
    made = Family(root / "models", root / "runs")
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (sitting, "RUNS", made.runs),
            (sitting, "time", Clock()),
            (flow, "RUNS", made.runs),
            (latents, "RUNS", made.runs),
            (flow, "FAMILY", made.folder),
            (evaluate, "FAMILY", made.folder),
            (measures, "FAMILY", made.folder),
            (text, "WEIGHTS", made.folder / "shared"),
            (vae, "FOLDER", made.folder / "shared" / "vae"),
            (latents, "VAE_FOLDER", made.folder / "shared" / "vae"),
            (card, "CARD", made.folder / "README.md"),
            (card, "RESULTS", root / "scores.json"),
            (vae, "CONFIG", VAE_CONFIG),
            (flow, "CONFIG", FLOW_CONFIG),
            (latents, "BATCH", 4),
            (flow, "BATCH", 4),
            (variation, "FOLDER", made.folder / "variation"),
            (variation, "BATCH", 4),
            (control, "FOLDER", made.folder / "control"),
            (control, "BATCH", 4),
            (control, "SHARD_BATCHES", 1),
            (annotators, "FOLDER", made.folder / "annotators"),
            (loras, "FAMILY", made.folder),
            (loras, "BATCH", 4),
            (edit, "BATCH", 4),
            (edit, "SHARD_BATCHES", 1),
            (fill, "BATCH", 4),
            (fill, "SHARD_BATCHES", 1),
            (fill, "CONFIG", FLOW_CONFIG),
            (latents, "SHARD_BATCHES", 1),
        ):
            patch.setattr(module, name, value)
        vae.train(MINUTES)
        text.train(MINUTES)
        flow.train_base(MINUTES, plain=0.1)
        flow.train_dev(MINUTES)
        flow.train_schnell(MINUTES)
        yield made
