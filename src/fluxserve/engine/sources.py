"""Where weights come from: what ships with fluxserve lies in a folder, all else on the hub.

A source is a name of the catalogue's: ``mini/…`` for what ships, or a hub id; a file of a hub id has the id before it.
"""

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

SHIPPED = "mini/"


class CannotDraw(Exception):
    """What a generation needs is not here. Callers read the message: it names no path."""


def folder_of(source: str, mini_folder: Path) -> str:
    """A folder, or a hub id as it stands."""
    return str(mini_folder / source.removeprefix(SHIPPED)) if source.startswith(SHIPPED) else source


def file_of(source: str, mini_folder: Path) -> Path:
    """A file, downloaded if need be. Raises `CannotDraw`."""
    if source.startswith(SHIPPED):
        path = mini_folder / source.removeprefix(SHIPPED)
        if not path.is_file():
            raise CannotDraw(f"{source} is not here")
        return path
    owner, repository, file = source.split("/", 2)
    try:
        return Path(hf_hub_download(f"{owner}/{repository}", file))
    except (OSError, HfHubHTTPError) as error:
        raise CannotDraw(f"{source} can't be downloaded") from error
