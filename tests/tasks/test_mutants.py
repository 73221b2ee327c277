"""The machine finds every bug that is planted into the queue, so what it does not find is likely not there."""

from collections.abc import Iterator

import pytest

from tests.tasks.machine import Ground, sqlite_ground
from tests.tasks.mutants import MUTANTS, Mutant, hunt

pytestmark = pytest.mark.untraced  # to trace these would take longer than to run them


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with sqlite_ground() as ground:
        yield ground


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_the_bug_is_found(ground: Ground, mutant: Mutant) -> None:
    caught = hunt(ground, mutant, mutant.seed)

    print(caught)
    assert caught is not None
