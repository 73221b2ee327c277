"""Weights that a person has already: linked into the weights folder, not copied."""

from pathlib import Path

from fluxserve.domain.weights import Package
from fluxserve.weights.errors import PullError
from fluxserve.weights.places import lacking


def place(package: Package, path: Path, folder: Path) -> Path:
    """Link a diffusers folder, or a single file where the package may be one. Raises `PullError`."""
    path = path.expanduser().resolve()
    if path.is_dir() and not package.is_one_file:
        if lacks := lacking(package, path):
            raise PullError(f"{path} is no {package.name}: it lacks {', '.join(lacks)}")
        link = folder / package.name
    elif path.is_file() and path.suffix in package.file_endings:
        link = folder / f"{package.name}{path.suffix}"
    else:
        allowed = [] if package.is_one_file else ["a folder"]
        allowed += [f"a {ending} file" for ending in package.file_endings]
        raise PullError(f"{path} can't be {package.name}; allowed is {' or '.join(allowed)}")
    folder.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    if link.exists():
        raise PullError(f"{link} is there already; `fluxserve models remove {package.name}` deletes it")
    link.symlink_to(path)
    return link
