"""`fluxserve doctor`, as a person types it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.serving import running


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """Somebody's, with nothing in it."""
    return {
        "FLUXSERVE_DATA_DIR": str(tmp_path / "data"),
        "FLUXSERVE_PORT": "0",
        "XDG_DATA_HOME": str(tmp_path / "share"),
        "HF_HOME": str(tmp_path / "hf"),
    }


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "FLUXSERVE_"))}
    return subprocess.run(
        [sys.executable, "-m", "fluxserve", "doctor", *arguments],
        env={**plain, "CUDA_VISIBLE_DEVICES": "", "FLUXSERVE_DEVICES": "cpu", "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def said(result: subprocess.CompletedProcess[str]) -> str:
    return re.sub(r"\s+", " ", result.stdout)


def test_on_a_machine_that_draws_it_says_so(home: dict[str, str]) -> None:
    result = doctor(**home)

    assert (result.returncode, result.stderr) == (0, "")
    heads = re.findall(r"^(\w.*)$", result.stdout, re.MULTILINE)
    assert heads == [
        "versions",
        "devices",
        "weights of mini",
        "plan on cpu: mini as it is here",
        "compilation",
        "disks and port",
        "findings",
    ]
    assert re.search(
        r"exact: large layers in \w+: at most .* MB with one transformer, .*; 4 of 4 transformers", said(result)
    )
    assert "they ship with fluxserve" in result.stdout
    assert result.stdout.splitlines()[-1].strip() == "nothing keeps a server from drawing"


def test_programs_are_told_the_same_as_json(home: dict[str, str]) -> None:
    told = json.loads(doctor("--json", **home).stdout)

    assert (told["can_draw"], told["findings"], told["family"]) == (True, [], "mini")
    assert [device["draws"] for device in told["devices"] if device["name"] == "cpu"] == [True]
    assert {plan["speed"]: plan["fits"] for plan in told["plans"]} == {"exact": True, "fast": True, "fastest": True}
    assert told["port"] == {"host": "127.0.0.1", "number": 0, "state": "free", "why": ""}


def test_without_flux1s_weights_it_fails_with_the_commands_that_bring_them(home: dict[str, str]) -> None:
    result = doctor(**home, FLUXSERVE_FAMILY="flux1")

    assert result.returncode == 1
    assert "missing: fluxserve models pull flux1-schnell\n" in result.stdout
    assert "missing: HF_TOKEN=hf_... fluxserve models pull flux1-dev --accept-license\n" in result.stdout
    assert "missing: fluxserve models pull loras --accept-license\n" in result.stdout
    assert "plan on cpu: FLUX.1 as it will be, at its full size" in result.stdout
    assert "flux1-schnell is not here → `fluxserve models pull flux1-schnell` brings it" in said(result)
    assert "a server would not draw like this" in result.stdout


def test_a_device_of_the_settings_that_is_not_here_fails(home: dict[str, str]) -> None:
    told = doctor("--json", **{**home, "FLUXSERVE_DEVICES": "cuda:7"})

    assert told.returncode == 1
    assert [each["what"] for each in json.loads(told.stdout)["findings"] if each["is_fatal"]] == [
        "FLUXSERVE_DEVICES names cuda:7, which is not here"
    ]


def test_a_setting_that_is_refused_is_the_finding(home: dict[str, str]) -> None:
    refused = {**home, "FLUXSERVE_PORT": "many"}

    for result in (doctor(**refused), doctor("--json", **refused)):
        assert (result.returncode, result.stderr) == (1, "")
        assert "server.port = 'many' (from FLUXSERVE_PORT): " in said(result)


def test_a_server_that_runs_is_known_by_its_answer(home: dict[str, str], tmp_path: Path) -> None:
    name = "pictures.example.com"
    with running(tmp_path / "served", FLUXSERVE_THREADS="1", FLUXSERVE_HOSTS=f"127.0.0.1,{name}") as server:
        result = doctor(**{**home, "FLUXSERVE_PORT": str(server.port), "FLUXSERVE_HOSTS": name})

    assert result.returncode == 0, result.stdout
    assert f"port {server.port} of 127.0.0.1: a fluxserve is running there" in result.stdout
    assert "memory as it is without the server that runs" in said(result)


def test_a_card_can_be_asked_about_before_it_is_bought() -> None:
    result = doctor("--memory", "24")

    assert result.returncode == 0, result.stderr
    assert "FLUX.1 at its full size on a CUDA card of 24 GB, with fp8" in result.stdout
    assert "exact: large layers in bfloat16, T5 on the host, modulation on the host, pictures decoded" in said(result)
    assert "fast, fastest: large layers in fp8, T5 on the host: " in said(result)
    assert "a prompt that was not read lately takes about a second more" in result.stdout

    without = json.loads(doctor("--memory", "24", "--no-fp8", "--json").stdout)
    assert [plan["words"].partition(",")[0] for plan in without["plans"]] == ["large layers in bfloat16"] * 3


def test_a_card_that_is_too_small_fails() -> None:
    result = doctor("--memory", "4")

    assert result.returncode == 1
    assert "it does not fit: " in result.stdout


def test_no_fp8_is_refused_without_a_card_that_it_is_said_of() -> None:
    result = doctor("--no-fp8")

    assert result.returncode == 2
    assert "it goes with --memory" in result.stderr
