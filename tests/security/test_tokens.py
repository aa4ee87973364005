"""Tokens: what is accepted, and every forgery, slip and broken key that is not."""

from __future__ import annotations

import base64
import hmac
import json
import os
import stat
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from hub.errors import StartError
from hub.security import tokens
from hub.security.tokens import ALL, AUDIENCE, ISSUER, Key, Tokens, keys_from_file, own_key
from schemas.errors import Problem

NOW = 1_784_077_441.0
SECRET = b"a secret of at least thirty-two bytes"
PRIVATE = Ed25519PrivateKey.generate()
OWN = Key("own", "EdDSA", PRIVATE.public_key(), PRIVATE)
SHARED = Key("shared", "HS256", SECRET)
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "front-desk",
    "jti": "1",
    "exp": NOW + 60,
    "system": "hotel-pms",
    "tenants": ["naha"],
    "scopes": ["publish:room.*", "subscribe:*", "sync"],
}


def verifier(clock: float = NOW) -> Tokens:
    """A verifier at a fixed time."""
    return Tokens([OWN, SHARED], clock=lambda: clock)


def part(value: Any) -> str:
    """One segment of a token, from raw bytes or JSON."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_hand(header: Any, payload: Any, key: bytes = SECRET) -> str:
    """A token signed with HMAC-SHA256, whatever its header says."""
    body = f"{part(header)}.{part(payload)}"
    return f"{body}.{part(hmac.digest(key, body.encode(), sha256))}"


def signed(key: Key = SHARED, **changes: Any) -> str:
    """A good token with some claims changed; None takes one out."""
    payload = {name: value for name, value in (CLAIMS | changes).items() if value is not ...}
    if key is SHARED:
        return by_hand({"alg": "HS256", "kid": "shared"}, payload)
    return jwt.encode(payload, PRIVATE, algorithm="EdDSA", headers={"kid": "own"})


def refused(token: str) -> Problem:
    """The problem a token is refused with."""
    with pytest.raises(Problem) as found:
        verifier().verify(token)
    assert found.value.status == 401
    return found.value


@pytest.mark.parametrize("key", [OWN, SHARED], ids=["EdDSA", "HS256"])
def test_a_good_token_says_what_it_says(key: Key) -> None:
    """All claims arrive, from either kind of key, the first time and from memory."""
    verify = verifier()
    token = signed(key, device_id="tablet-1", view="masked")
    for _ in range(2):
        claims = verify.verify(token)
        assert (claims.subject, claims.token_id, claims.system) == ("front-desk", "1", "hotel-pms")
        assert (claims.tenants, claims.view, claims.device_id) == (frozenset({"naha"}), "masked", "tablet-1")
        assert claims.expires_at == NOW + 60
    assert verifier().verify(signed(key)).view == "full"


def test_claims_answer_for_their_scopes() -> None:
    """Patterns, plain scopes and tenants; `admin` has `ops`."""
    claims = verifier().verify(signed())
    assert claims.may("publish", "room.status_changed")
    assert claims.may("publish", "room.*")
    assert not claims.may("publish", "order.placed")
    assert not claims.may("publish", "*")
    assert claims.may("subscribe", "*")
    assert claims.has("sync")
    assert not claims.has("ops")
    assert verifier().verify(signed(scopes=["admin"])).has("ops")
    for refuse, what in ((claims.require, "ops"), (claims.require_tenant, "other")):
        with pytest.raises(Problem) as found:
            refuse(what)
        assert found.value.code == "forbidden"
    assert verifier().verify(signed(tenants=[ALL])).holds("whatever")


# Forgeries


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", ""])
@pytest.mark.parametrize("kid", ["own", "shared"])
def test_unsigned_tokens_are_refused(alg: str, kid: str) -> None:
    """`none` is no algorithm, however it is spelled and whatever stands for a signature."""
    for signature in ("", "x", part(b"")):
        refused(f"{part({'alg': alg, 'kid': kid})}.{part(CLAIMS)}.{signature}")


def test_the_public_key_is_no_secret() -> None:
    """A token signed by HMAC with the public key, in any encoding, is not taken for one signed by the hub."""
    public = PRIVATE.public_key()
    raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    for secret in (raw, pem, der, pem.strip(), raw.hex().encode()):
        for alg in ("HS256", "EdDSA", "HS512"):
            refused(by_hand({"alg": alg, "kid": "own"}, CLAIMS, secret))


def test_a_key_is_for_one_algorithm() -> None:
    """Neither key verifies under the other's name or algorithm, nor does a header bring its own key."""
    refused(jwt.encode(CLAIMS, PRIVATE, algorithm="EdDSA", headers={"kid": "shared"}))
    refused(by_hand({"alg": "HS256", "kid": "own"}, CLAIMS))
    refused(by_hand({"alg": "HS512", "kid": "shared"}, CLAIMS))
    other = Ed25519PrivateKey.generate()
    public = other.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    bring = {"kid": "own", "jwk": {"kty": "OKP", "crv": "Ed25519", "x": part(public)}}
    refused(jwt.encode(CLAIMS, other, algorithm="EdDSA", headers=bring))


@pytest.mark.parametrize("kid", ["", "other", "../own", None, 5, ["own"], {"own": 1}, True])
def test_an_unknown_kid_is_refused(kid: Any) -> None:
    """Without a known key name there is no key to try."""
    refused(by_hand({"alg": "HS256", "kid": kid}, CLAIMS))
    refused(by_hand({"alg": "HS256"}, CLAIMS))


@pytest.mark.parametrize("flip", ["header", "payload", "signature"])
def test_a_changed_token_is_refused(flip: str) -> None:
    """One changed character anywhere spoils it."""
    pieces = signed().split(".")
    index = ["header", "payload", "signature"].index(flip)
    middle = len(pieces[index]) // 2
    other = "A" if pieces[index][middle] != "A" else "B"
    pieces[index] = pieces[index][:middle] + other + pieces[index][middle + 1 :]
    refused(".".join(pieces))


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "a.b.c", "a.b", "a.b.c.d", "é.é.é", "\ud800", "\0", " ", "Bearer x", "=.=.=", "x" * 1_000_000],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    """Whatever stands in the header is an answer of 401, never a failure of the hub."""
    refused(token)


@pytest.mark.parametrize("header", [b"{", b"[]", b"null", b"7", b'"x"', b"\xff"])
def test_a_header_that_is_no_object_is_refused(header: bytes) -> None:
    """Whatever the first segment decodes to."""
    refused(by_hand(header, CLAIMS))


def test_a_huge_token_is_refused() -> None:
    """A megabyte of header is not looked for a key in."""
    refused(by_hand({"alg": "HS256", "kid": "x" * 1_000_000}, CLAIMS))
    deep = b'{"alg":"HS256","kid":"shared","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    refused(by_hand(deep, CLAIMS))
    refused(by_hand({"alg": "HS256", "kid": "shared"}, b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"))


# Claims


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "jti", "exp", "system", "tenants", "scopes"])
@pytest.mark.parametrize("key", [OWN, SHARED], ids=["EdDSA", "HS256"])
def test_every_claim_is_needed(claim: str, key: Key) -> None:
    """A token without one of them is refused."""
    refused(signed(key, **{claim: ...}))


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("iss", "someone-else"),
        ("iss", ["hotel-common"]),
        ("aud", "another-service"),
        ("aud", []),
        ("aud", {"hotel-event-hub": 1}),
        ("aud", ["another-service"]),
        ("sub", 7),
        ("jti", 7),
        ("exp", "1999999999"),
        ("exp", True),
        ("exp", None),
        ("exp", [NOW + 60]),
        ("exp", float("nan")),
        ("exp", float("inf")),
        ("exp", float("-inf")),
        ("exp", 1e300),
        ("exp", 10**400),
        ("nbf", "soon"),
        ("system", "Hotel PMS"),
        ("system", ""),
        ("system", "hotel-pms\n"),
        ("system", 7),
        ("system", None),
        ("tenants", "naha"),
        ("tenants", {"naha": 1}),
        ("tenants", ["naha", 7]),
        ("tenants", [["naha"]]),
        ("tenants", ["na ha"]),
        ("tenants", ["naha\n"]),
        ("tenants", [""]),
        ("tenants", ["**"]),
        ("tenants", None),
        ("scopes", "publish:*"),
        ("scopes", [None]),
        ("scopes", None),
        ("view", "partial"),
        ("view", None),
        ("view", ["full"]),
        ("device_id", 7),
        ("device_id", ["tablet"]),
    ],
)
def test_a_wrong_claim_is_refused(claim: str, value: Any) -> None:
    """A claim of another type or content than agreed is refused, though the signature is good."""
    assert refused(signed(**{claim: value})).code == "unauthorized"


def test_a_token_ends_at_its_time() -> None:
    """Good to the last moment before `exp`, refused from then on, also when it is remembered."""
    time = NOW
    verify = Tokens([SHARED], clock=lambda: time)
    token = signed()
    claims = verify.verify(token)
    time = NOW + 59.9
    assert verify.verify(token) == claims
    assert not verify.expired(claims)
    time = NOW + 60
    for _ in range(2):
        with pytest.raises(Problem) as found:
            verify.verify(token)
        assert found.value.code == "token_expired"
    assert verify.expired(claims)


def test_the_memory_of_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old tokens are forgotten and verified anew."""
    monkeypatch.setattr(tokens, "_REMEMBERED", 3)
    verify = verifier()
    for number in range(10):
        verify.verify(signed(jti=str(number)))
    assert len(verify._known) == 3
    assert verify.verify(signed(jti="0")).token_id == "0"


# The hub's own key


def test_issued_tokens_are_accepted() -> None:
    """What the hub issues it accepts, with all that was asked for; what it would not accept it does not issue."""
    verify = verifier()
    token = verify.issue("hotel-saas", ["naha"], ["ops"], subject="me", lifetime_s=5, device_id="d", view="masked")
    claims = verify.verify(token)
    assert (claims.system, claims.subject, claims.expires_at) == ("hotel-saas", "me", NOW + 5)
    assert (claims.device_id, claims.view, claims.scopes) == ("d", "masked", frozenset({"ops"}))
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "kid": "own", "typ": "JWT"}
    for system, tenants_ in (("Bad Name", ["naha"]), ("hotel-saas", ["b ad"])):
        with pytest.raises(Problem):
            verify.issue(system, tenants_, [])


def test_the_own_key_is_made_once_and_private(tmp_path: Path) -> None:
    """The first start makes a key that only its owner can read; later starts find the same."""
    first = own_key(tmp_path / "data")
    path = tmp_path / "data" / "keys" / "hub.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["hub.pem"]
    again = own_key(tmp_path / "data")
    assert again.kid == first.kid
    assert Tokens([again]).verify(Tokens([first]).issue("hotel-pms", ["*"], [])).all_tenants


def test_an_interrupted_start_does_not_bar_the_next(tmp_path: Path) -> None:
    """What a start left behind when it was killed, under the same pid, is no hindrance."""
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "keys" / f".hub.pem.{os.getpid()}").write_bytes(b"half")
    assert own_key(tmp_path).signing is not None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """The error names the file and the command that mends it."""
    own_key(tmp_path)
    path = tmp_path / "keys" / "hub.pem"
    path.chmod(mode)
    with pytest.raises(StartError) as found:
        own_key(tmp_path)
    assert str(path) in found.value.message
    assert "chmod 600" in found.value.fix


def pem(private: Any, encryption: Any = None) -> bytes:
    """A private key as a file holds it."""
    return bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            encryption or serialization.NoEncryption(),
        )
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a key",
        pem(Ed25519PrivateKey.generate())[:60],
        pem(generate_private_key(65537, 2048)),
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(Ed25519PrivateKey.generate(), serialization.BestAvailableEncryption(b"password")),
        PRIVATE.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    ],
    ids=["empty", "text", "cut", "rsa", "ec", "encrypted", "public"],
)
def test_a_file_that_is_no_such_key_is_refused(tmp_path: Path, content: bytes) -> None:
    """The hub does not start with a broken or foreign key, and does not replace it."""
    path = tmp_path / "keys" / "hub.pem"
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StartError) as found:
        own_key(tmp_path)
    assert str(path) in found.value.message
    assert path.read_bytes() == content


def test_a_place_for_the_key_that_is_none_is_told(tmp_path: Path) -> None:
    """A directory in the file's place is an error of the start, not of the program."""
    (tmp_path / "keys" / "hub.pem").mkdir(parents=True, mode=0o700)
    with pytest.raises(StartError, match=r"hub\.pem"):
        own_key(tmp_path)


# Other issuers' keys


def jwks(tmp_path: Path, content: Any) -> list[Key]:
    """Keys from a file with this content."""
    path = tmp_path / "keys.json"
    path.write_bytes(content if isinstance(content, bytes) else orjson.dumps(content))
    return keys_from_file(path)


OCT = {"kty": "oct", "kid": "shared", "alg": "HS256", "k": part(SECRET)}
OKP = {
    "kty": "OKP",
    "crv": "Ed25519",
    "kid": "issuer",
    "alg": "EdDSA",
    "x": part(PRIVATE.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)),
}


def test_keys_of_other_issuers_verify(tmp_path: Path) -> None:
    """Secrets and Ed25519 keys of a JWK Set verify tokens; none of them signs."""
    keys = jwks(tmp_path, {"keys": [OCT, OKP]})
    verify = Tokens([own_key(tmp_path), *keys], clock=lambda: NOW)
    assert verify.verify(signed()).system == "hotel-pms"
    by_issuer = jwt.encode(CLAIMS, PRIVATE, algorithm="EdDSA", headers={"kid": "issuer"})
    assert verify.verify(by_issuer).system == "hotel-pms"
    assert [key.signing for key in keys] == [None, None]
    assert jwt.get_unverified_header(verify.issue("hotel-pms", ["*"], []))["kid"].startswith("hub-")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        {"key": []},
        {"keys": 5},
        {"keys": {"a": 1}},
        {"keys": ["x"]},
        {"keys": [{}]},
        {"keys": [OCT | {"kty": "RSA"}]},
        {"keys": [OCT | {"alg": "HS512"}]},
        {"keys": [OCT | {"alg": "none"}]},
        {"keys": [OCT | {"k": part(b"short")}]},
        {"keys": [OCT | {"k": 5}]},
        {"keys": [{name: value for name, value in OCT.items() if name != "kid"}]},
        {"keys": [{name: value for name, value in OCT.items() if name != "alg"}]},
        {"keys": [{name: value for name, value in OCT.items() if name != "k"}]},
        {"keys": [OCT | {"kid": 5}]},
        {"keys": [OCT | {"kid": ["shared"]}]},
        {"keys": [OCT | {"kid": ""}]},
        {"keys": [OCT, OCT | {"k": part(SECRET * 2)}]},
        {"keys": [OKP | {"x": "AA"}]},
        {"keys": [OKP | {"crv": "X25519"}]},
        {"keys": [OKP | {"crv": "Ed448"}]},
        {"keys": [OKP | {"alg": "HS256"}]},
        {"keys": [OCT | {"alg": "EdDSA"}]},
    ],
    ids=range(25),
)
def test_a_wrong_key_set_is_refused(tmp_path: Path, content: Any) -> None:
    """A set that cannot be used whole stops the start, naming setting and file; secrets are not repeated."""
    with pytest.raises(StartError) as found:
        jwks(tmp_path, content)
    assert "HUB_JWT_KEYS" in found.value.message
    assert "keys.json" in found.value.message
    assert part(SECRET) not in str(found.value)


def test_a_missing_key_set_is_told(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(StartError, match=r"nowhere\.json"):
        keys_from_file(tmp_path / "nowhere.json")
