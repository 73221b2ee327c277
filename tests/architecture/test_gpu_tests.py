"""What is to be run on a machine with a GPU runs where little else is installed."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_THERE = (
    *("pydantic", "pydantic_settings", "fastapi", "sqlalchemy", "typer", "gguf", "hypothesis", "psutil"),
    *("fluxserve.config", "fluxserve.weights.download"),  # the second for httpx2, which the hub's own library may use
)
WITHOUT = f"""
import runpy, sys

class Hiding:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, *more):
        return None if {{name, name.partition(".")[0]}} & set({NOT_THERE}) else self.finder.find_spec(name, *more)

sys.meta_path[:] = map(Hiding, sys.meta_path)
sys.argv[:] = sys.argv[1:]
sys.path.insert(0, "")
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run(*arguments: str, **more: str) -> str:
    """What `python -m` says there."""
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments],
        cwd=ROOT,
        env={
            **os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "CUDA_VISIBLE_DEVICES": "",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **more,
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def bare(*arguments: str, **more: str) -> str:
    alone = ("-c", "tests/gpu/bare.ini", "--rootdir=.", "--confcutdir=tests/gpu", "-p", "no:logging")
    return run("pytest", *alone, "-m", "gpu", *arguments, **more)


def test_without_a_gpu_the_tests_for_one_are_skipped_and_say_why() -> None:
    told = bare("tests/gpu")
    assert "torch finds no GPU here" in told
    assert " skipped" in told.splitlines()[-1]
    assert not any(word in told.splitlines()[-1] for word in ("failed", "error"))


def test_what_has_a_meaning_on_a_cpu_is_rehearsed_there() -> None:
    of_compiling = ("--deselect", "tests/gpu/network/test_compiling.py")  # which takes minutes
    told = bare("tests/gpu", *of_compiling, GPU_TESTS_ON="cpu")
    assert " passed" in told.splitlines()[-1]


def test_the_benchmark_at_full_size_needs_no_more() -> None:
    run("benchmarks.flux_full", "--help")
