"""The receivers of a storm, good and bad, in one process of their own: see `webhook_storm`.

    python -m tests.end_to_end.storm_receivers

The first line that it prints has the addresses, by kind; once its input ends, the last one has what the good ones
heard.
"""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from standardwebhooks import Webhook, WebhookVerificationError

from tests.webhooks.receiver import OK, Answer, Received, Receiver, drip, endless, hang, receiving, status

HEAD = b"HTTP/1.1 200 OK\r\nX: "


@dataclass(frozen=True)
class Kind:
    """`ports` receivers that answer alike, and how many of a hundred webhooks go to one of them."""

    answer: Answer
    ports: int
    of_hundred: int


KINDS = {
    "good": Kind(OK, 10, 60),
    "failing": Kind(status(500), 5, 10),
    "hanging": Kind(hang, 50, 10),
    "dripping": Kind(drip(HEAD, b"x", seconds=1.0), 50, 10),
    "redirecting": Kind(b"", 5, 5),  # to the one that nobody is told of
    "endless": Kind(endless(HEAD, b"x" * 1000), 5, 5),
}
TARPITS = ("hanging", "dripping")


@dataclass
class Heard:
    """What the good receivers heard: (task id, seconds on the system's steady clock), in order."""

    received: list[tuple[str, float]] = field(default_factory=list)
    unverified: int = 0  # that the reference library refused
    followed: int = 0  # redirects
    most_tarpits: int = 0  # that were held open at once

    def note(self, received: Received) -> None:
        secret = received.headers.get("x-webhook-secret", "")
        try:
            key = secret if secret.startswith("whsec_") else secret.encode()
            data = Webhook(key).verify(received.body, received.headers)["data"]
            self.received.append((data["task_id"], received.at))
        except (WebhookVerificationError, ValueError):
            self.unverified += 1


async def main() -> None:
    heard = Heard()
    async with AsyncExitStack() as stack:
        inside = await stack.enter_async_context(receiving())
        receivers: dict[str, list[Receiver]] = {}
        for name, kind in KINDS.items():
            answer = kind.answer or status(307, f"Location: {inside.url}")
            receivers[name] = [await stack.enter_async_context(receiving(answer)) for _ in range(kind.ports)]
        for receiver in receivers["good"]:
            receiver.heard = heard.note
        tarpits = [receiver for name in TARPITS for receiver in receivers[name]]
        print(json.dumps({name: [each.url for each in some] for name, some in receivers.items()}), flush=True)

        end = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        while not end.done():
            heard.most_tarpits = max(heard.most_tarpits, sum(bool(tarpit.open) for tarpit in tarpits))
            await asyncio.wait([end], timeout=0.2)
        heard.followed = len(inside.received)
        print(json.dumps(heard.__dict__), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
