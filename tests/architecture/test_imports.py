"""The import rules of docs/architecture.md hold."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_imports_go_one_way() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout


def test_importing_the_server_loads_no_torch() -> None:
    code = (
        "import sys, fluxserve.cli, fluxserve.server;"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"


def test_a_worker_asks_no_hub() -> None:
    """Its library looks once, when it is imported, whether it may."""
    code = (
        "import sys, fluxserve.engine.worker as worker; assert 'huggingface_hub' not in sys.modules\n"
        "try: worker.build_engine(worker.parse(sys.argv[1:]))\n"
        "except Exception: pass\n"
        "from huggingface_hub import constants; print(constants.HF_HUB_OFFLINE)"
    )
    arguments = ["--family", "mini", "--mini-folder", "/nowhere", "--device", "cpu", "--members", "schnell"]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "True"
