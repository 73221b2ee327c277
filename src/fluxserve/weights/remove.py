"""Removing weights: from the person's folder, and what of them lies in the hub's cache."""

import glob
import shutil
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CacheNotFound, constants, scan_cache_dir

from fluxserve.domain.weights import Hub, Package
from fluxserve.weights.places import is_wanted


@dataclass(frozen=True, slots=True)
class Removed:
    """What is gone, and how many bytes that freed: none for a link, whose file is the person's."""

    places: tuple[Path, ...]
    freed: int


def remove(package: Package, folder: Path) -> Removed:
    """Wherever it lies, begun pulls of it too."""
    gone = []
    freed = 0
    own = [folder / package.name, *(folder / f"{package.name}{ending}" for ending in package.file_endings)]
    for place in (*own, *folder.glob(f"{glob.escape(package.name)}.partial-*")):
        if place.is_symlink():
            place.unlink()
        elif place.is_dir():
            freed += sum(path.stat().st_size for path in place.rglob("*") if path.is_file() and not path.is_symlink())
            shutil.rmtree(place)
        elif place.exists():
            freed += place.stat().st_size
            place.unlink()
        else:
            continue
        gone.append(place)
    cached, freed_there = _remove_from_cache(package)
    return Removed((*gone, *cached), freed + freed_there)


def _remove_from_cache(package: Package) -> tuple[list[Path], int]:
    """Its files alone: those of another package in the same repository stay."""
    if not isinstance(package.source, Hub):
        return [], 0
    try:
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return [], 0
    repositories = (package.source.repository, *package.source.also)
    found = [
        (revision.snapshot_path, file)
        for repository in cache.repos
        if repository.repo_type == "model" and repository.repo_id in repositories
        for revision in repository.revisions
        for file in revision.files
        if is_wanted(package, file.file_path.relative_to(revision.snapshot_path).as_posix())
    ]
    if not found:
        return [], 0
    deletion = cache.delete_files(*(file for _, file in found))
    freed = deletion.expected_freed_size
    deletion.execute()
    return sorted({snapshot for snapshot, _ in found}), freed
