"""The sender of a storm, in a process of its own that can be killed: see `webhook_storm`.

python -m tests.end_to_end.storm_sender DATABASE SECONDS LEASE_EXTRA GAPS
"""

import asyncio
import json
import sys
from ipaddress import ip_network
from pathlib import Path

from fluxserve.domain.task import Task
from fluxserve.storage import GuardedBackend
from fluxserve.tasks import Database, Listener, Outbox, Signals, open_postgresql, open_sqlite
from fluxserve.webhooks import Sender, sender


def told(task: Task, now: float) -> bytes:
    """Little, so that a start is short: the vendor's door takes a second to be imported."""
    return json.dumps({"timestamp": int(now), "data": {"task_id": task.id, "status": task.state}}).encode()


async def main(address: str, seconds: float, lease_extra: float, gaps: list[float]) -> None:
    sender.LEASE_EXTRA_SECONDS = lease_extra
    is_shared = address.startswith("postgresql")
    database = Database(open_postgresql(address) if is_shared else open_sqlite(Path(address)))
    signals = Signals(database)
    if is_shared:
        Listener(database, signals).start()
    Sender(
        outbox=Outbox(database, signals),
        render=told,
        backend=GuardedBackend([ip_network("127.0.0.1/32")]),
        gaps=gaps,
        seconds=seconds,
    ).start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until it is killed, or left behind


if __name__ == "__main__":
    asyncio.run(
        main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), [float(gap) for gap in sys.argv[4].split(",")])
    )
