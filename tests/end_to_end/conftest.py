"""One server for the tests that do no harm to it."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.serving import Server, running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server") / "data") as server:
        yield server
