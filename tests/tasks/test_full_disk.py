"""What the margin of free space is for never comes to this; if it does, every task that was accepted is there."""

from pathlib import Path

import pytest

from fluxserve.domain.errors import Unavailable
from fluxserve.domain.task import Submission
from fluxserve.tasks import Accounts, Database, Queue, Rules, migrate, open_sqlite
from tests.conftest import SMALL
from tests.tasks.conftest import PICTURE

pytestmark = pytest.mark.anyio


async def test_a_queue_on_a_full_disk_has_all_that_it_accepted_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    engine = open_sqlite(small_disk / "queue.sqlite")
    migrate(engine)
    database = Database(engine)
    account = await Accounts(database).ensure_first(credits_usd=100, max_concurrent=100_000)
    queue = Queue(database, Rules())
    asked = Submission(account.id, {"about": "x" * 20_000}, PICTURE)
    (small_disk / "ballast").write_bytes(b"0" * (SMALL // 2))

    accepted = set()

    async def submit_for_ever() -> None:
        while True:
            accepted.add((await queue.submit(asked)).id)

    with pytest.raises(Unavailable):
        await submit_for_ever()

    assert {task.id for task in await queue.open_tasks(account.id)} == accepted
    assert await queue.audit() == []
    (small_disk / "ballast").unlink()
    await queue.submit(asked)
    assert await queue.audit() == []
    database.close()
