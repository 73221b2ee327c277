"""Whether there is room on the disks for something new."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from fluxserve.domain.errors import NoRoom

LOOK_SECONDS = 1.0


class Room:
    """Of `folders`, where `least_free` bytes are to stay free, or a twentieth of the disk if that is less: what was
    accepted before must find its place, and even to delete takes some."""

    def __init__(self, folders: Sequence[Path], least_free: int) -> None:
        self._folders = folders
        self._least_free = least_free
        self._looked_at = -LOOK_SECONDS
        self._has_room = True

    def check(self) -> None:
        """Raises `NoRoom`. Cheap: the disks are looked at once a second."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at, self._has_room = now, all(map(self._is_roomy, self._folders))
        if not self._has_room:
            raise NoRoom("the server's disk is nearly full or gone, so nothing new is accepted for now; try later")

    def _is_roomy(self, folder: Path) -> bool:
        try:
            disk = shutil.disk_usage(folder)
        except OSError:  # a folder of another machine's that is not mounted just now
            return False
        return disk.free >= to_stay_free(self._least_free, disk.total)


def to_stay_free(least_free: int, total: int) -> int:
    """Bytes, of a disk of `total`."""
    return min(least_free, total // 20)
