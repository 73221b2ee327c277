"""Programs as users have them, in Python, in JavaScript or for a shell; and pictures on the web for them."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.end_to_end.serving import KEY, Server

DOCS = Path(__file__).parents[2] / "docs"
NODE_PACKAGES = Path(__file__).parent / "node" / "node_modules"
SECONDS = 240

Ran = subprocess.CompletedProcess[str]


def on_page(page: str, language: str) -> list[str]:
    """The programs on a page of `docs/`."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def told(program: str, server: Server) -> str:
    """With that server's address and key in the place of the page's."""
    mended = program.replace("http://127.0.0.1:8000", server.url).replace("YOUR_KEY", KEY)
    assert mended != program
    return mended


def python(program: str, folder: Path) -> Ran:
    return _run([sys.executable, "-I", "-c", program], folder)


def javascript(program: str, folder: Path) -> Ran:
    """With OpenAI's own SDK at hand."""
    (folder / "node_modules").symlink_to(NODE_PACKAGES)
    (folder / "program.mjs").write_text(program)
    return _run([str(Path(sys.executable).with_name("node")), "program.mjs"], folder)


def shell(command: str, folder: Path, **environment: str) -> Ran:
    return _run(["bash", "-euc", command], folder, PATH="/usr/bin:/bin", **environment)


def _run(command: list[str], folder: Path, **environment: str) -> Ran:
    return subprocess.run(
        command, cwd=folder, env=environment or None, capture_output=True, text=True, timeout=SECONDS, check=False
    )


@contextlib.contextmanager
def on_the_web(folder: Path) -> Iterator[str]:
    """The address where what is in `folder` is."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
