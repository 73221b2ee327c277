"""Where weights lie: in a folder of the person's, else in the hub's own cache.

It only looks, and only on the disk: nothing here asks the network.
"""

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import constants

from fluxserve.domain.weights import PACKAGES, Hub, Package, package_of
from fluxserve.weights.errors import NotHereError

SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")


def find(source: str, folder: Path | None) -> Path:
    """The folder or the file of a package, or a file in it ("annotator-openpose/yolox_l.onnx"). Raises `NotHereError`.

    `folder` is the person's own; None looks into the hub's cache alone.
    """
    package, file = package_of(source)
    place = _whole(package, folder)
    if place is None:
        raise NotHereError(_what_to_do(package, folder))
    return place / file if file else place


def is_here(source: str, folder: Path | None) -> bool:
    package, _ = package_of(source)
    return _whole(package, folder) is not None


def everything_here(folder: Path | None) -> dict[str, Path | None]:
    """Each package, and where it lies."""
    return {name: _whole(package, folder) for name, package in PACKAGES.items()}


def _whole(package: Package, folder: Path | None) -> Path | None:
    return next((place for place in places(package, folder) if not lacking(package, place)), None)


def places(package: Package, folder: Path | None) -> Iterator[Path]:
    """Everywhere that it may lie, whether it does or not, the first choice first."""
    if folder is not None:
        if not package.is_one_file:
            yield folder / package.name
        for ending in package.file_endings:
            yield folder / f"{package.name}{ending}"
    for snapshot in hub_snapshots(package):
        yield snapshot / package.files[0] if package.is_one_file else snapshot


def hub_snapshots(package: Package) -> Iterator[Path]:
    """Its repository's in the hub's cache, as they are laid out there, the newest known first."""
    if not isinstance(package.source, Hub):
        return
    for repository in (package.source.repository, *package.source.also):
        cached = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
        main = cached / "refs" / "main"
        newest = main.read_text().strip() if main.is_file() else ""
        if (cached / "snapshots").is_dir():
            yield from sorted((cached / "snapshots").iterdir(), key=lambda each: (each.name != newest, each.name))


def lacking(package: Package, place: Path) -> list[str]:
    """What of it is not at `place`: nothing, if it is there. Of a file in parts each must be, and their index."""
    if place.is_file() and place.suffix in package.file_endings:
        return []
    if package.is_one_file or not place.is_dir():
        return [place.name]
    # Links are followed, of folders too; one that leads nowhere, as a broken download leaves it, is no file.
    paths = (Path(parent, name) for parent, _, names in os.walk(place, followlinks=True) for name in names)
    there = {path.relative_to(place).as_posix() for path in paths if path.is_file()}
    wanted = [name for name in there if is_wanted(package, name)]
    lacks = [pattern for pattern in package.files if not any(matches(name, pattern) for name in wanted)]
    for name in wanted:
        if shard := SHARD.fullmatch(name):
            stem, _, count, ending = shard.groups()
            whole = [f"{stem}-{number:05}-of-{count}{ending}" for number in range(1, int(count) + 1)]
            lacks += [part for part in (*whole, f"{stem}{ending}.index.json") if part not in there]
    return sorted(set(lacks))


def is_wanted(package: Package, name: str) -> bool:
    """Whether a file of its source or its folder is one of its own."""
    return any(matches(name, pattern) for pattern in package.files)


def matches(name: str, pattern: str) -> bool:
    return any(fnmatchcase(name, each) for each in pattern.split("|"))


def _what_to_do(package: Package, folder: Path | None) -> str:
    there = next((each for each in places(package, folder) if each.exists()), None) if folder else None
    lacks = f" (what is in {there} lacks {', '.join(lacking(package, there))})" if there else ""
    bring = f"`fluxserve models pull {package.name}` brings it, or " if package.source else ""
    return f"{package.name} is not here{lacks}: {bring}{how_to_place(package, folder)}"


def how_to_place(package: Package, folder: Path | None) -> str:
    """What a person does who has it from elsewhere."""
    names = [] if package.is_one_file else [f"a folder {package.name}"]
    names += [f"{package.name}{ending}" for ending in package.file_endings]
    return f"place {' or '.join(names)} in {folder or 'the weights folder'} (`pull --from PATH` links what you have)"
