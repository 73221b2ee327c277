"""One server for the tests that do no harm to it."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.serving import Server, running

LARGEST_BODY = 1_000_000  # a smaller one than by default, so that one byte more is soon sent


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server") / "data"
    with running(folder, FLUXSERVE_LARGEST_BODY=str(LARGEST_BODY), FLUXSERVE_WEBHOOK_ALLOW_PRIVATE="true") as server:
        yield server
