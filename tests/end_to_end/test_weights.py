"""From a hub to a picture: small networks of FLUX.1's classes, under the names of FLUX.1's, are pulled and draw."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.engine.family import build, build_classifier
from tests.weights import standins
from tests.weights.standins import Site


def fluxserve(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fluxserve", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put_networks(hub: Site, folder: Path) -> None:
    build(folder / "family")
    classifier = build_classifier(folder / "classifier") / "model.safetensors"
    weights = load_file(classifier)
    weights["classifier.bias"][:] = weights["classifier.bias"].new_tensor([99.0, -99.0])  # it flags nothing
    save_file(weights, classifier, {"format": "pt"})
    for part in ("schnell", "shared"):
        hub.put("black-forest-labs/FLUX.1-schnell", **files_in(folder / "family" / part))
    hub.put("Falconsai/nsfw_image_detection", **files_in(folder / "classifier"))


@pytest.mark.timeout(300)
def test_what_was_pulled_draws(tmp_path: Path) -> None:
    picture = tmp_path / "cat.png"
    with standins.hub() as hub:
        put_networks(hub, tmp_path)
        machine = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "XDG_DATA_HOME": str(tmp_path / "data")}
        pulled = fluxserve("models", "pull", "flux1-schnell", **machine)
        assert pulled.returncode == 0, pulled.stderr
        hub.heard.clear()

        drawn = fluxserve(
            "generate", "a cat", "-o", str(picture), "--width", "256", "--height", "256", "--seed", "1",
            FLUXSERVE_FAMILY="flux1", FLUXSERVE_DEVICES="cpu", **machine,
        )  # fmt: skip

        assert drawn.returncode == 0, drawn.stderr
        assert hub.heard == []
    with Image.open(picture) as opened:
        assert opened.size == (256, 256)
