"""Pulling: what is missing is looked up, room is made sure of, the files are brought and put in their place together.

What is under way lies beside its place as NAME.partial-REVISION, so that a pull that was stopped goes on at the next;
it is moved there when all of it is whole.
"""

import fcntl
import glob
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fluxserve.domain.weights import Hub, Package
from fluxserve.weights.download import PART, PAUSES, Downloads, StatusError, size_of
from fluxserve.weights.errors import LicenceError, PullError
from fluxserve.weights.listing import Listing, Store
from fluxserve.weights.places import how_to_place, lacking, matches
from fluxserve.weights.sizes import in_words

MARGIN = 500_000_000  # bytes to stay free


@dataclass(frozen=True, slots=True)
class Plan:
    """What one package takes: `size` bytes in all, of which `missing` are still to be brought."""

    package: Package
    store: Store
    listing: Listing
    size: int
    missing: int


class Puller:
    """Brings packages into `folder`. `hub` and `civitai` are asked for what is theirs."""

    def __init__(
        self,
        folder: Path,
        *,
        hub: Store,
        civitai: Store,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        self._folder = folder
        self._hub = hub
        self._civitai = civitai
        self._free_bytes = free_bytes
        self._pauses = pauses

    def plan(self, package: Package) -> Plan:
        """Asks its source, for no file yet. Raises `PullError`."""
        if package.source is None:
            raise PullError(f"{package.name} has no source that is known; {how_to_place(package, self._folder)}")
        if place := self._in_the_way(package):
            raise PullError(
                f"{place} is there, but lacks {', '.join(lacking(package, place))}: move it away, or let `fluxserve "
                f"models remove {package.name}` delete it"
            )
        store = self._hub if isinstance(package.source, Hub) else self._civitai
        try:
            listing = store.listing(package)
        except StatusError as error:
            raise self._refusal(package, store, error.status) from None
        names = [remote.name for remote in listing.files]
        if not names or any(not any(matches(name, pattern) for name in names) for pattern in package.files):
            raise self._refusal(package, store, 404)
        partial = self._partial(package, listing)
        size = sum(remote.size for remote in listing.files)
        here = sum(_here(partial / remote.name) for remote in listing.files)
        return Plan(package, store, listing, size, max(0, size - here))

    def check_room(self, plans: Sequence[Plan]) -> None:
        """Raises `PullError` unless the disk has room for all of them."""
        self._folder.mkdir(parents=True, exist_ok=True)
        missing, free = sum(plan.missing for plan in plans), self._free_bytes(self._folder)
        if missing and missing + MARGIN > free:
            raise PullError(
                f"the disk of {self._folder} has {in_words(free)} free, and {in_words(missing + MARGIN)} are needed: "
                f"{in_words(missing)} to be brought, and {in_words(MARGIN)} to stay free"
            )

    def fetch(self, plan: Plan, on_bytes: Callable[[int], None]) -> Path:
        """Where it lies, once it does. `on_bytes` is told how many more bytes are here. Raises `PullError`."""
        package, partial = plan.package, self._partial(plan.package, plan.listing)
        place = self._folder / (f"{package.name}{package.file_endings[0]}" if package.is_one_file else package.name)
        with self._alone():
            for other in self._folder.glob(f"{glob.escape(package.name)}.partial-*"):
                if other != partial:  # of a version that is no longer the newest
                    shutil.rmtree(other)
            downloads = Downloads(on_bytes, self._pauses)
            try:
                for remote in plan.listing.files:
                    if not (partial / remote.name).is_file():
                        downloads.bring(remote, plan.listing.headers, partial / remote.name)
            except StatusError as error:
                raise self._refusal(package, plan.store, error.status) from None
            except OSError as error:
                raise PullError(f"{package.name} can't be written to {partial}: {error.strerror}") from None
            finally:
                downloads.close()
            if package.is_one_file:
                (partial / plan.listing.files[0].name).replace(place)
                shutil.rmtree(partial)
            elif lacks := lacking(package, partial):
                raise PullError(f"{package.name} came without {', '.join(lacks)}: its source has changed")
            else:
                partial.rename(place)
        return place

    def _refusal(self, package: Package, store: Store, status: int) -> PullError:
        reason = store.refusal(package, status)
        return PullError(f"{reason}; {how_to_place(package, self._folder)}" if status == 404 else reason)

    def _in_the_way(self, package: Package) -> Path | None:
        place = self._folder / package.name
        is_there = place.exists() or place.is_symlink()
        return place if not package.is_one_file and is_there and lacking(package, place) else None

    def _partial(self, package: Package, listing: Listing) -> Path:
        return self._folder / f"{package.name}.partial-{listing.revision[:12]}"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two pulls at once would write to the same files."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PullError(f"another pull into {self._folder} is under way") from None
            yield


def check_licence(package: Package, is_accepted: bool) -> None:
    """Raises `LicenceError` where it must be accepted first."""
    licence = package.licence
    if not licence.is_commercial and not is_accepted:
        raise LicenceError(
            f"{package.name} is not known to be free for every use. Its licence: {licence.name}, {licence.page}. If "
            "you accept it, pull again with --accept-license"
        )


def _here(file: Path) -> int:
    return size_of(file) or size_of(file.with_name(file.name + PART))
