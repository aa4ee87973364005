"""Signatures of webhooks: what the specification's own package accepts, and which secrets are none."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from hub.security.webhook_signatures import check_secret, new_secret, signature_header


def secret_of(raw: bytes) -> str:
    """A secret with given bytes."""
    return f"whsec_{base64.b64encode(raw).decode()}"


def headers(signature: str, message_id: str, timestamp: int) -> dict[str, str]:
    """The headers that are verified."""
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": signature}


def test_the_example_of_the_specification_has_its_signature() -> None:
    """Secret, id, time and body of the specification's example give the signature that stands there."""
    body = b'{"test": 2432232314}'
    signature = signature_header(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(
    raw=st.binary(min_size=24, max_size=64),
    message_id=st.text("abcdefghij0123456789_-", min_size=1, max_size=60),
    body=st.text(max_size=300),
)
def test_the_public_package_verifies_ours(raw: bytes, message_id: str, body: str) -> None:
    """Whatever secret, id and body: the package of the specification verifies what was signed."""
    now = int(time.time())
    signature = signature_header([secret_of(raw)], message_id, now, body.encode())
    Webhook(secret_of(raw)).verify(body, headers(signature, message_id, now), json_parse=False)


@pytest.mark.parametrize("wrong", ["body", "id", "secret"])
def test_anything_changed_is_not_verified(wrong: str) -> None:
    """A signature is good for one body, one id and one secret alone."""
    now, secret = int(time.time()), new_secret()
    signature = signature_header([secret], "msg_1", now, b"{}")
    verifier = Webhook(new_secret() if wrong == "secret" else secret)
    with pytest.raises(WebhookVerificationError):
        verifier.verify(
            "[]" if wrong == "body" else "{}",
            headers(signature, "msg_2" if wrong == "id" else "msg_1", now),
            json_parse=False,
        )


def test_each_of_two_secrets_verifies_while_a_secret_is_changed() -> None:
    """With an old and a new secret there are two signatures, and a holder of either accepts the webhook."""
    now, old, new = int(time.time()), new_secret(), new_secret()
    signature = signature_header([new, old], "msg_1", now, b"{}")
    assert [one[:3] for one in signature.split(" ")] == ["v1,", "v1,"]
    for secret in (old, new):
        Webhook(secret).verify("{}", headers(signature, "msg_1", now), json_parse=False)


def test_new_secrets_are_good_and_differ() -> None:
    """A new secret has 32 random bytes and passes the check."""
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    for secret in made:
        check_secret(secret)
        assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32


@pytest.mark.parametrize(
    ("secret", "fix"),
    [
        ("", "begin with whsec_"),
        (base64.b64encode(b"x" * 32).decode(), "begin with whsec_"),
        ("WHSEC_" + base64.b64encode(b"x" * 32).decode(), "begin with whsec_"),
        ("whsec_", "24 to 64 bytes"),
        ("whsec_not base64 at all, not base64 at all", "must be base64"),
        ("whsec_" + "é" * 40, "must be base64"),
        (secret_of(b"x" * 32).rstrip("="), "padded with ="),
        (secret_of(b"x" * 32) + "\n", "must be base64"),
        (secret_of(b"\xff\xfe" * 16).replace("/", "_"), "must be base64"),
        (secret_of(b"x" * 23), "not 23"),
        (secret_of(b"x" * 65), "not 65"),
    ],
)
def test_what_is_no_secret_is_refused_with_the_fix(secret: str, fix: str) -> None:
    """Each slip in a secret is named, without the secret, and nothing is signed with it."""
    with pytest.raises(ValueError, match=fix) as caught:
        check_secret(secret)
    assert len(secret) < 10 or secret.removeprefix("whsec_") not in str(caught.value)
    with pytest.raises(ValueError):
        signature_header([secret], "msg_1", 1, b"")


def test_without_a_secret_nothing_is_signed() -> None:
    """An empty list of secrets is a mistake and no empty signature."""
    with pytest.raises(ValueError, match="at least one"):
        signature_header([], "msg_1", 1, b"")
