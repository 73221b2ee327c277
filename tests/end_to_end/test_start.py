"""What a start says, and which key opens the door."""

import re
import stat
from pathlib import Path

from tests.end_to_end.serving import KEY, Server, body, free_port


def started(server: Server) -> str:
    """What it printed until it could be asked."""
    server.start()
    server.wait_until("/healthz")
    return server.log.read_text()


def test_the_first_start_makes_a_key_that_later_starts_know(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", free_port(), FLUXSERVE_API_KEY="")
    shown = re.search(r"API key: (fxs_[0-9a-f]{72})$", started(server), re.MULTILINE)
    assert shown is not None
    assert server.stop() == 0
    again = started(server)

    assert again.count(f"API key: {shown[1]}") == 2
    assert f"{server.url}/api/v1/task" in again
    assert stat.S_IMODE((tmp_path / "data" / "first_key").stat().st_mode) == 0o600
    with server.client() as client:
        answer = client.post("/api/v1/task", json=body(), headers={"X-API-Key": shown[1]})
    assert answer.status_code == 200
    assert server.stop() == 0


def test_a_key_from_the_settings_is_used_and_not_shown(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", free_port())

    assert KEY not in started(server)
    with server.client() as client:
        assert client.post("/api/v1/task", json=body()).status_code == 200
    assert server.stop() == 0
