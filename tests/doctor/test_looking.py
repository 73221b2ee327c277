"""What is looked at is what is there."""

import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Literal

import pytest
from huggingface_hub import constants

from fluxserve.config import EngineSettings, ServerSettings, Settings
from fluxserve.doctor import Found, look
from tests.weights.packages import ENCODERS, TRANSFORMER, lay


@pytest.fixture(autouse=True)
def _nobodys_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache is an empty one, here and in the process that is asked."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))


def looked(
    tmp_path: Path, *, port: int = 0, family: Literal["mini", "flux1"] = "mini", lora_folder: Path | None = None
) -> Found:
    """With folders of the test's own."""
    server = ServerSettings(port=port, data_dir=tmp_path / "data")
    engine = EngineSettings(family=family, weights_folder=tmp_path / "weights", lora_folder=lora_folder)
    return look(Settings(server=server, engine=engine))


@pytest.fixture
def stranger() -> Iterator[int]:
    """The port of somebody else's server, which also tells of its health."""

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": "ok"}')

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_of_this_machine_the_cpu_at_least_is_found_with_a_plan_for_each_speed(tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "mine.safetensors").touch()

    found = looked(tmp_path, lora_folder=tmp_path / "loras")

    assert found.machine is not None
    assert found.machine.devices[-1].name == "cpu"
    assert {plan.speed for plan in found.machine.plans if plan.device == "cpu"} == {"exact", "fast", "fastest"}
    assert found.versions["torch"] == found.machine.torch
    assert (found.packages, found.refusal, found.own_loras) == ({}, None, ("mine",))
    assert found.port.state == "free"
    assert [disk.purpose for disk in found.disks] == ["data", "pictures", "weights"]
    assert all(0 < disk.free <= disk.total and disk.is_writable for disk in found.disks)
    assert not (tmp_path / "data").exists()  # nothing is changed


def test_of_flux1_every_package_is_looked_for_and_planned_for_before_it_is_here(tmp_path: Path) -> None:
    found = looked(tmp_path, family="flux1")

    assert {"flux1-schnell", "flux1-encoders", "annotator-depth", "safety-classifier", "anime"} <= found.packages.keys()
    assert found.machine is not None
    assert found.machine.is_full_size
    assert not any(found.packages.values())
    assert found.refusal is not None
    assert found.refusal.startswith("flux1-schnell is not here: `fluxserve models pull flux1-schnell` brings it")


def test_weights_that_can_not_be_read_are_told(tmp_path: Path) -> None:
    lay(tmp_path / "weights" / "flux1-schnell", TRANSFORMER)
    lay(tmp_path / "weights" / "flux1-encoders", ENCODERS)

    machine = looked(tmp_path, family="flux1").machine

    assert machine is not None
    assert machine.unreadable is not None
    assert machine.unreadable.endswith("is no safetensors file, and nothing else is read")


def test_a_port_that_somebody_else_has_is_not_taken_for_a_fluxserves(tmp_path: Path, stranger: int) -> None:
    assert looked(tmp_path, port=stranger).port.state == "somebody else"


def test_a_port_of_a_program_that_speaks_no_http_is_somebody_elses(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        Thread(target=lambda: mute.accept()[0].close(), daemon=True).start()
        assert looked(tmp_path, port=mute.getsockname()[1]).port.state == "somebody else"
