"""Memory that was freed is kept for the next picture, and a want of it is known by each of its names.

glibc gives larger blocks back to the system as soon as they are freed and asks for them anew, and every page of them is
then cleared and mapped again: a tenth of the time of a network on a CPU, whose every layer asks for megabytes.
"""

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
LARGEST_BLOCK = 32 << 20  # bytes; glibc takes no larger one for M_MMAP_THRESHOLD
MOST_KEPT = 2**31 - 1  # bytes; an int
STEP = 64 << 20  # bytes that the heap grows by

WANTS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def keep_freed_memory() -> bool:
    """Tell the C library; False where it is another than glibc, which is left as it is."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    wishes = ((M_MMAP_THRESHOLD, LARGEST_BLOCK), (M_TRIM_THRESHOLD, MOST_KEPT), (M_TOP_PAD, STEP))
    return all(mallopt(wish, value) == 1 for wish, value in wishes)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device had too little. torch has an error of its own only for memory that it asked for itself: what a
    library or the driver wanted in vain is told in words."""
    return any(want in str(error) for want in WANTS)
