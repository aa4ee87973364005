"""Signatures of webhooks, as the Standard Webhooks specification has them: HMAC-SHA256 over id, time and body."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets as randomness
from collections.abc import Sequence
from typing import Final

PREFIX: Final = "whsec_"
MIN_BYTES: Final = 24
MAX_BYTES: Final = 64
_NEW_BYTES: Final = 32


def new_secret() -> str:
    """A secret that nobody can guess: `whsec_` and 32 random bytes in base64."""
    return PREFIX + base64.b64encode(randomness.token_bytes(_NEW_BYTES)).decode()


def check_secret(text: str) -> None:
    """Refuse what is no secret; the message never repeats it.

    Raises:
        ValueError: without the prefix, not base64, or not 24 to 64 bytes long; the message names the fix.
    """
    _key(text)


def signature_header(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: `v1,<base64>` for each secret, in their order, with a space between.

    `timestamp` is the value of `webhook-timestamp`, in Unix seconds; `body` is what is sent, byte by byte. With more
    than one secret an endpoint may hold either, as while a secret is being changed.

    Raises:
        ValueError: no secret, or one that `check_secret` refuses.
    """
    if not secrets:
        raise ValueError("a signature needs at least one secret")
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return " ".join(
        f"v1,{base64.b64encode(hmac.digest(_key(secret), signed, 'sha256')).decode()}" for secret in secrets
    )


def _key(secret: str) -> bytes:
    if not secret.startswith(PREFIX):
        raise ValueError(f"the secret must begin with {PREFIX}")
    try:
        key = binascii.a2b_base64(secret.removeprefix(PREFIX).encode(), strict_mode=True)
    except (binascii.Error, UnicodeError):
        raise ValueError(f"the secret must be base64 after {PREFIX}, padded with =") from None
    if not MIN_BYTES <= len(key) <= MAX_BYTES:
        raise ValueError(f"the secret must be {MIN_BYTES} to {MAX_BYTES} bytes in base64, not {len(key)}")
    return key
