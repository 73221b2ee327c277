import subprocess
import sys

import pytest

PROGRAM = """
import resource
from fluxserve.engine.memory import keep_freed_memory
kept = {keep} and keep_freed_memory()
for _ in range(20):
    layers = [b"x" * (8 << 20) for _ in range(20)]
    del layers
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt, kept)
"""


def page_faults(*, keep: bool) -> int:
    run = subprocess.run([sys.executable, "-c", PROGRAM.format(keep=keep)], capture_output=True, text=True, check=True)
    faults, kept = run.stdout.split()
    if keep and kept == "False":
        pytest.skip("another C library than glibc")
    return int(faults)


def test_memory_that_was_freed_is_not_asked_for_again() -> None:
    assert page_faults(keep=True) < page_faults(keep=False) / 5
