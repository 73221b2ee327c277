"""What every test stands on."""

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.postgresql import Postgres, postgres

# Threads that wait by spinning take a core each: on a small machine the pictures become many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# By default a garbage collector that has a million objects to look through does so every few seconds.
gc.set_threshold(20_000, 20, 20)

SMALL = 4_000_000  # bytes of a disk that is soon full

# A busy machine is no failure, and the same commit gives the same result.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """pytest-cov has a marker for this too, but in a process of xdist's it stops one of two tracers."""
    if item.get_closest_marker("untraced") is None:
        return (yield)
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgres]:
    """A PostgreSQL of our own for all tests that want one."""
    with postgres() as server:
        yield server


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of its own, where this user can make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user can't mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
