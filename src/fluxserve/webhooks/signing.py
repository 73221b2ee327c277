"""Two ways for a receiver to know that a webhook is ours: the vendor's, the secret itself in a header, and Standard
Webhooks' (standardwebhooks.com), a signature of the message, its time and its body that tells nobody the secret.
"""

import base64
import binascii
import hashlib
import hmac
from contextlib import suppress

PREFIX = "whsec_"


def headers(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Of one attempt: the id is the same in all of them, the time is each one's own (unix seconds).

    Nothing is signed where the caller gave no secret.
    """
    named = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    if not secret:
        return named
    signed = hmac.new(_key(secret), f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        **named,
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
        "x-webhook-secret": secret,
    }


def _key(secret: str) -> bytes:
    """A secret that begins with whsec_ is base64, as the standard has it, padded or not; any other is as it is."""
    encoded = secret.removeprefix(PREFIX)
    if encoded not in ("", secret):
        with suppress(binascii.Error):  # it only looks like one
            return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    return secret.encode()
