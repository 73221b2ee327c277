"""The command line, as a person types it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


def fluxserve(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "fluxserve", *arguments],
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_generate_draws_a_picture_without_a_server(tmp_path: Path) -> None:
    file = tmp_path / "cat.png"

    result = fluxserve("generate", "a little cat", "-o", str(file), "--width", "320", "--height", "192", "--seed", "3")

    assert result.returncode == 0, result.stderr
    with Image.open(file) as picture:
        assert picture.size == (320, 192)
    assert "seed 3" in re.sub(r"\s+", " ", result.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "a cat", "-o", "cat.tiff"), "cat.tiff ends in none of .png"),
        (("generate", "a cat", "-o", "cat.png", "--model", "flux9"), "flux9 is none of flux1-schnell"),
        (("generate", "a cat", "-o", "cat.png", "--width", "9"), "width: 9 is not allowed"),
        (("generate", "a cat", "-o", "cat.png", "--steps", "99"), "99 is not allowed"),
        (("generate", "a cat", "-o", "/no/such/folder/cat.png"), "/no/such/folder"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_drawn(arguments: tuple[str, ...], message: str) -> None:
    result = fluxserve(*arguments)

    assert result.returncode != 0
    assert message in re.sub(r"[\s│]+", " ", result.stderr)


def test_a_wrong_setting_stops_the_start_with_its_name() -> None:
    result = fluxserve("serve", FLUXSERVE_PORT="many")

    assert result.returncode != 0
    assert "server.port = 'many' (from FLUXSERVE_PORT)" in result.stderr


def test_migrate_makes_the_database(tmp_path: Path) -> None:
    result = fluxserve("migrate", FLUXSERVE_DATA_DIR=str(tmp_path / "data"))

    assert result.returncode == 0, result.stderr
    assert (tmp_path / "data" / "fluxserve.sqlite").exists()
