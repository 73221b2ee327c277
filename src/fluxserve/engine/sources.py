"""Where weights come from: what ships with fluxserve lies in a folder, all else is found by the weights room.

A source is a name of the catalogue's: ``mini/…`` for what ships, or a package; a file of a package has the package's
name before it. Nothing is fetched: what is not here can't be drawn with.
"""

from dataclasses import dataclass
from pathlib import Path

from fluxserve.weights import NotHereError, find

SHIPPED = "mini/"


class CannotDraw(Exception):
    """What a generation needs is not here. Callers read the message: it names no path."""


@dataclass(frozen=True, slots=True)
class Sources:
    """`mini_folder` is where what ships lies, `weights_folder` where a person's own weights do."""

    mini_folder: Path
    weights_folder: Path | None = None

    def path(self, source: str) -> Path:
        """Its folder or its file. Raises `CannotDraw` where a package is not here."""
        if source.startswith(SHIPPED):
            return self.mini_folder / source.removeprefix(SHIPPED)
        try:
            return find(source, self.weights_folder)
        except NotHereError as error:
            raise CannotDraw(f"{source.partition('/')[0]} is not on this server") from error

    def file(self, source: str) -> Path:
        """One that is a file. Raises `CannotDraw`."""
        path = self.path(source)
        if not path.is_file():
            raise CannotDraw(f"{source} is not here")
        return path
