"""Where weights come from: what ships with fluxserve lies in a folder, all else is found by the weights room.

A source is a name of the catalogue's: ``mini/…`` for what ships, or a package; a file of a package has the package's
name before it. Nothing is fetched: what is not here can't be drawn with.
"""

from pathlib import Path

from fluxserve.weights import NotHereError, find

SHIPPED = "mini/"


class CannotDraw(Exception):
    """What a generation needs is not here. Callers read the message: it names no path."""


def path_of(source: str, mini_folder: Path, weights_folder: Path | None) -> Path:
    """Its folder or its file. Raises `CannotDraw` where a package is not here."""
    if source.startswith(SHIPPED):
        return mini_folder / source.removeprefix(SHIPPED)
    try:
        return find(source, weights_folder)
    except NotHereError as error:
        raise CannotDraw(f"{source.partition('/')[0]} is not on this server") from error


def file_of(source: str, mini_folder: Path, weights_folder: Path | None) -> Path:
    """One that is a file. Raises `CannotDraw`."""
    path = path_of(source, mini_folder, weights_folder)
    if not path.is_file():
        raise CannotDraw(f"{source} is not here")
    return path
