"""The command line, as a person types it."""

import contextlib
import json
import re
import sqlite3
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("accounts", "show", "no\udcffbody"), "no account has the id 'no\\udcffbody'"),
        (("accounts", "create", "x", "--credits-usd", "-1"), "credits_usd: -1.0 is not allowed"),
        (("keys", "revoke", "nothing"), "no key has the id 'nothing'"),
        (("webhooks", "log", "nothing"), "no finished task with a webhook has the id 'nothing'"),
    ],
    ids=lambda value: ascii(value) if isinstance(value, str) else " ".join(map(ascii, value)),
)
def test_what_cant_be_done_is_told_in_one_line_on_stderr(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    result = fluxserve(*arguments, FLUXSERVE_DATA_DIR=str(tmp_path / "data"))

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("fluxserve: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_audit_that_finds_something_says_what_and_fails(tmp_path: Path) -> None:
    folder = {"FLUXSERVE_DATA_DIR": str(tmp_path / "data")}
    made = fluxserve("accounts", "create", "studio", "--credits-usd", "1", **folder)
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "fluxserve.sqlite")) as database:
        database.execute("UPDATE accounts SET balance = balance + 1")
        database.commit()

    result = fluxserve("audit", **folder)

    assert result.returncode == 1
    assert "an account's balance is the sum of its ledger" in result.stdout
    assert json.loads(made.stdout)["id"] in result.stdout


def test_a_database_that_cant_be_reached_is_told_in_one_line(tmp_path: Path) -> None:
    result = fluxserve(
        "accounts", "list", FLUXSERVE_DATA_DIR=str(tmp_path), FLUXSERVE_DATABASE_URL="postgresql://u:p@127.0.0.1:9/x"
    )

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("fluxserve: the database can't be used")
    assert "Traceback" not in result.stderr


def test_migrate_makes_the_database(tmp_path: Path) -> None:
    result = fluxserve("migrate", FLUXSERVE_DATA_DIR=str(tmp_path / "data"))

    assert result.returncode == 0, result.stderr
    assert (tmp_path / "data" / "fluxserve.sqlite").exists()
