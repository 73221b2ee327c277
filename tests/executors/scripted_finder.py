"""A finder of devices that looks for none and tells what it was given: a real process that prints."""

import os
import sys
import time

from fluxserve.domain.device import Device, dump

GB = 10**9
CPU = Device("cpu", "a processor", 64 * GB, 60 * GB, has_bfloat16=False, cores=16)
GPUS = [
    Device(f"cuda:{number}", "a big card", 80 * GB, 79 * GB, has_bfloat16=True, has_fp8=True) for number in range(4)
]
APPLE = Device("mps", "an apple", 32 * GB, 32 * GB, has_bfloat16=True)
MACHINES = {"four": [*GPUS, CPU], "apple": [APPLE, CPU], "bare": [CPU]}


def main() -> None:
    match sys.argv[1]:
        case "dies":
            os._exit(3)
        case "hangs":
            time.sleep(3600)
        case "mumbles":
            print("a driver says hello")
            print('["nothing that anyone asked for"]')
        case machine:
            print("a driver says hello")
            print(dump(MACHINES[machine]))


if __name__ == "__main__":
    main()
