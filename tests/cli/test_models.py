"""`fluxserve models`, as a person types it, with a hub of the tests' own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fluxserve.domain.weights import PACKAGES
from tests.weights import standins
from tests.weights.packages import CLASSIFIER, FIRST_SHARD, FLUX, TRANSFORMER, lay
from tests.weights.standins import Site

SCHNELL, DEV = "black-forest-labs/FLUX.1-schnell", "black-forest-labs/FLUX.1-dev"


@dataclass
class Machine:
    """Somebody's, with the hub that it reaches."""

    home: Path
    hub: Site

    @property
    def folder(self) -> Path:
        return self.home / "data" / "fluxserve" / "models"

    def models(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "FLUXSERVE_"))}
        own = {"XDG_DATA_HOME": str(self.home / "data"), "HF_HOME": str(self.home / "hf"), "HF_ENDPOINT": self.hub.url}
        return subprocess.run(
            [sys.executable, "-m", "fluxserve", "models", *arguments],
            env={**plain, **own, "COLUMNS": "200", **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with standins.hub() as hub:
        hub.put(SCHNELL, **FLUX)
        hub.put(DEV, **FLUX)
        hub.put("Falconsai/nsfw_image_detection", **CLASSIFIER)
        yield Machine(tmp_path, hub)


def said(result: subprocess.CompletedProcess[str]) -> str:
    return re.sub(r"\s+", " ", result.stderr)


def test_pull_brings_a_model_with_what_it_needs_and_goes_on_where_it_was_cut(machine: Machine) -> None:
    machine.hub.cuts[f"{SCHNELL}/{FIRST_SHARD}"] = [1_000_000]

    result = machine.models("pull", "flux1-schnell")

    assert result.returncode == 0, result.stderr
    brought = [f"{name}: {machine.folder / name}" for name in ("flux1-schnell", "flux1-encoders", "safety-classifier")]
    assert result.stdout.splitlines() == brought
    assert "flux1-schnell: pictures from words in four steps; about 23.8 GB; Apache-2.0" in said(result)
    assert (machine.folder / "flux1-schnell" / FIRST_SHARD).read_bytes() == TRANSFORMER[FIRST_SHARD]
    assert machine.hub.sent[f"{SCHNELL}/{FIRST_SHARD}"] == len(TRANSFORMER[FIRST_SHARD])
    assert machine.models("path", "flux1-schnell").stdout == f"{machine.folder / 'flux1-schnell'}\n"


def test_pulling_what_is_here_brings_nothing(machine: Machine) -> None:
    machine.models("pull", "safety-classifier")
    machine.hub.heard.clear()

    result = machine.models("pull", "safety-classifier")

    assert result.stdout == f"safety-classifier: it is here, {machine.folder / 'safety-classifier'}\n"
    assert machine.hub.heard == []


def test_a_licence_must_be_accepted_before_anything_is_asked_for(machine: Machine) -> None:
    result = machine.models("pull", "flux1-dev")

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count(f"FLUX.1 [dev] Non-Commercial License, {PACKAGES['flux1-dev'].licence.page}") == 2
    assert result.stderr.splitlines()[-1].startswith("fluxserve: ")
    assert machine.hub.heard == []
    assert machine.models("pull", "flux1-dev", "--accept-license").returncode == 0


def test_a_gate_is_told_with_its_page_and_a_token_opens_it(machine: Machine) -> None:
    machine.hub.refused[DEV] = 403

    refused = machine.models("pull", "flux1-dev", "--accept-license")

    assert refused.returncode == 1
    assert f"accept it at https://huggingface.co/{DEV}, and set HF_TOKEN" in refused.stderr
    assert machine.models("pull", "flux1-dev", "--accept-license", HF_TOKEN="hf_theirs").returncode == 0


def test_a_folder_that_has_all_is_linked_with_what_is_needed(machine: Machine, tmp_path: Path) -> None:
    theirs = lay(tmp_path / "FLUX.1-dev", FLUX)

    result = machine.models("pull", "flux1-dev", "--from", str(theirs))

    assert result.returncode == 0, result.stderr
    assert machine.models("path", "flux1-encoders").stdout == f"{machine.folder / 'flux1-encoders'}\n"
    assert (machine.folder / "flux1-dev").readlink() == theirs
    assert "flux1-dev also needs safety-classifier: fluxserve models pull safety-classifier" in said(result)


def test_list_tells_everything_and_where_it_lies(machine: Machine) -> None:
    machine.models("pull", "safety-classifier")

    table, told = machine.models("list"), json.loads(machine.models("list", "--json").stdout)

    assert [each["name"] for each in told] == list(PACKAGES)
    here = {each["name"]: each["path"] for each in told if each["path"]}
    assert here == {"safety-classifier": str(machine.folder / "safety-classifier")}
    dev = next(line for line in table.stdout.splitlines() if line.startswith("flux1-dev "))
    assert re.search(r"pictures .* about 23\.8 GB +FLUX\.1 \[dev\] Non-Commercial License +no", dev)
    assert all(name in table.stdout for name in PACKAGES)


def test_remove_tells_what_it_freed(machine: Machine) -> None:
    machine.models("pull", "safety-classifier")

    result = machine.models("remove", "safety-classifier")

    assert result.stdout == f"safety-classifier: 16 bytes freed, {machine.folder / 'safety-classifier'}\n"
    assert machine.models("path", "safety-classifier").returncode == 1
    assert machine.models("remove", "safety-classifier").stdout == "safety-classifier: it is not here\n"


def test_path_of_what_is_not_here_fails_with_what_to_do(machine: Machine) -> None:
    result = machine.models("path", "flux1-dev")

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("fluxserve: flux1-dev is not here: `fluxserve models pull flux1-dev` brings it")


def test_a_name_that_nobody_knows_is_refused_with_those_there_are(machine: Machine) -> None:
    result = machine.models("pull", "flux9")

    assert result.returncode == 2
    assert "flux9 is none of flux1, annotators, loras, flux1-schnell" in re.sub(r"[\s│]+", " ", result.stderr)


def test_flux1_does_not_start_without_weights_and_says_how_to_get_them(machine: Machine, tmp_path: Path) -> None:
    environment = {**os.environ, "FLUXSERVE_FAMILY": "flux1", "FLUXSERVE_WEIGHTS_FOLDER": str(machine.folder)}
    result = subprocess.run(
        [sys.executable, "-m", "fluxserve", "serve", "--port", "0", "--data-dir", str(tmp_path / "server")],
        env={**environment, "HF_HOME": str(machine.home / "hf")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert result.returncode == 1
    assert result.stderr.startswith(
        "fluxserve: flux1-schnell is not here: `fluxserve models pull flux1-schnell` brings"
    )
