"""What we sign, the reference library of Standard Webhooks accepts, and nothing that was changed on its way."""

import base64
from datetime import datetime, tzinfo
from typing import Self

import pytest
import standardwebhooks.webhooks
from standardwebhooks import Webhook, WebhookVerificationError

from fluxserve.webhooks import signing

NOW = 1_700_000_000
KEY = bytes(range(32))
ENCODED = base64.b64encode(KEY).decode()
ID = "msg_0123456789abcdef"
BODY = b'{"timestamp": 1700000000, "data": {"task_id": "a", "status": "completed"}}'


@pytest.fixture(autouse=True)
def _at_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(NOW, tz)

    monkeypatch.setattr(standardwebhooks.webhooks, "datetime", Frozen)


def verify(headers: dict[str, str], body: bytes, key: str | bytes = KEY) -> None:
    Webhook(key).verify(body, headers)


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        (f"whsec_{ENCODED}", f"whsec_{ENCODED}"),
        (f"whsec_{ENCODED.rstrip('=')}", f"whsec_{ENCODED.rstrip('=')}"),
        ("a plain secret", b"a plain secret"),
        (ENCODED, ENCODED.encode()),  # only the prefix says that it is base64
        ("whsec_", b"whsec_"),
        ("whsec_ it only looks like one", b"whsec_ it only looks like one"),
        ("whsec_abcde", b"whsec_abcde"),  # no base64 has five characters
    ],
)
def test_the_reference_library_accepts_it(secret: str, key: str | bytes) -> None:
    headers = signing.headers(secret, ID, NOW, BODY)

    verify(headers, BODY, key)
    assert headers["x-webhook-secret"] == secret


def test_nothing_is_signed_without_a_secret() -> None:
    assert signing.headers("", ID, NOW, BODY) == {"webhook-id": ID, "webhook-timestamp": str(NOW)}


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_every_changed_byte_of_a_header_is_refused(name: str) -> None:
    headers = signing.headers(f"whsec_{ENCODED}", ID, NOW, BODY)
    right = headers[name].encode()

    for changed in _each_byte_flipped(right):
        # A version or a separator that is none makes the library raise what it raises.
        with pytest.raises((WebhookVerificationError, ValueError)):
            verify({**headers, name: changed.decode()}, BODY)


def test_every_changed_byte_of_the_body_is_refused() -> None:
    headers = signing.headers(f"whsec_{ENCODED}", ID, NOW, BODY)

    for changed in _each_byte_flipped(BODY):
        with pytest.raises(WebhookVerificationError):
            verify(headers, changed)


def _each_byte_flipped(right: bytes) -> list[bytes]:
    return [right[:place] + bytes([right[place] ^ 1]) + right[place + 1 :] for place in range(len(right))]


def test_another_key_refuses_it() -> None:
    with pytest.raises(WebhookVerificationError):
        verify(signing.headers(f"whsec_{ENCODED}", ID, NOW, BODY), BODY, b"another")


@pytest.mark.parametrize("off", [-299, -300, 300, 299])
def test_a_webhook_is_taken_for_five_minutes(off: int) -> None:
    verify(signing.headers(f"whsec_{ENCODED}", ID, NOW + off, BODY), BODY)


@pytest.mark.parametrize("off", [-301, 301])
def test_a_second_more_and_it_is_refused(off: int) -> None:
    with pytest.raises(WebhookVerificationError, match="timestamp too"):
        verify(signing.headers(f"whsec_{ENCODED}", ID, NOW + off, BODY), BODY)


def test_each_attempt_has_the_id_of_the_first_and_a_time_and_a_signature_of_its_own() -> None:
    first, second = (signing.headers("s", ID, NOW + later, BODY) for later in (0, 5))

    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-timestamp"] != second["webhook-timestamp"]
    assert first["webhook-signature"] != second["webhook-signature"]
    for headers in (first, second):
        verify(headers, BODY, b"s")
