"""What a user would pick instead, each in an environment of its own (`install`) and made to do the same nothing.

`bentoml_service` and `cog_predictor` are the smallest services of their kinds; `procrastinate_run` is a program that
runs in procrastinate's environment and prints its figures as JSON.
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".peers"  # not in the repository
VERSIONS = {"bentoml": "1.4.40", "cog": "0.23.1", "litellm": "1.100.0", "procrastinate": "3.10.0"}
EXTRAS = {"litellm": "[proxy]"}
PROGRAMS = Path(sys.executable).parent
WITH_NODE = f"{PROGRAMS}:{os.environ['PATH']}"
OF_NODE = {"@portkey-ai/gateway": "1.15.2"}
# With a newer one, which npm would choose, it answers streams with 500: its issue 1389.
INSTEAD = {"@portkey-ai/gateway": {"@hono/node-server": "1.13.8"}}


def install(name: str) -> Path:
    """The folder of its programs, set up if it is not there yet. Takes a minute."""
    home = FOLDER / f"{name}-{VERSIONS[name]}"
    ready = home / "ready"
    if not ready.exists():
        print(f"setting up {name} {VERSIONS[name]}", file=sys.stderr, flush=True)
        venv.create(home, with_pip=True, clear=True)
        packages = [
            f"{name}{EXTRAS.get(name, '')}=={VERSIONS[name]}",
            *(["psycopg[binary]"] if name == "procrastinate" else []),
        ]
        subprocess.run([home / "bin" / "pip", "install", "--quiet", *packages], check=True, stderr=subprocess.DEVNULL)
        ready.touch()
    return home / "bin"


def install_of_node(name: str) -> Path:
    """The same of a package that runs in Node.js; which is that of our own tests."""
    home = FOLDER / f"{name.replace('/', '-')}-{OF_NODE[name]}"
    ready = home / "ready"
    if not ready.exists():
        print(f"setting up {name} {OF_NODE[name]}", file=sys.stderr, flush=True)
        home.mkdir(parents=True, exist_ok=True)
        package = {"dependencies": {name: OF_NODE[name]}, "overrides": INSTEAD.get(name, {})}
        (home / "package.json").write_text(json.dumps(package))
        command = [str(PROGRAMS / "npm"), "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(home)]
        subprocess.run(command, env={**os.environ, "PATH": WITH_NODE}, check=True)
        ready.touch()
    return home / "node_modules" / ".bin"
