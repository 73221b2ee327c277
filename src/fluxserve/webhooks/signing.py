"""Two ways for a receiver to know that a webhook is ours: the vendor's, the secret itself in a header, and Standard
Webhooks' (standardwebhooks.com), a signature of the message, its time and its body that tells nobody the secret.
"""

import base64
import binascii
import hashlib
import hmac

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
    """A secret that begins with whsec_ is base64, as the standard has it; any other is taken as it is."""
    if secret.startswith(PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError):
            pass  # it only looks like one
    return secret.encode()
