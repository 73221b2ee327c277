from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.weights import standins
from tests.weights.standins import Site


@pytest.fixture
def hub() -> Iterator[Site]:
    with standins.hub() as site:
        yield site


@pytest.fixture
def civitai() -> Iterator[Site]:
    with standins.civitai() as site:
        yield site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where somebody's weights lie."""
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache: an empty one, and nobody's own. Nor is anybody's token."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path / "hub"
