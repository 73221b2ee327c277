"""What every test stands on."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.postgresql import Postgres, postgres

# Threads that wait by spinning take a core each: on a small machine the pictures become many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A busy machine is no failure, and the same commit gives the same result.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgres]:
    """A PostgreSQL of our own for all tests that want one."""
    with postgres() as server:
        yield server
