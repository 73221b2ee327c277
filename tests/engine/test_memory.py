import subprocess
import sys

import pytest

from fluxserve.engine.memory import is_out_of_memory

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


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB",
        "MPS backend out of memory (MPS allocated: 9.05 GB)",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_a_device_that_has_too_little_says_so_in_several_ways(words: str) -> None:
    assert is_out_of_memory(RuntimeError(words))


def test_other_errors_are_none() -> None:
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
