"""Tokens: JWT signed with HS256 or EdDSA (R88, R89), checked against keys found by `kid`.

A key belongs to one algorithm, whatever a token's header says; `none` and everything else is refused.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hub.errors import StartError
from schemas import patterns
from schemas.errors import Problem
from schemas.types import HUB, SYSTEM_FORM, TENANT_FORM

ISSUER: Final = "hotel-common"
AUDIENCE: Final = "hotel-event-hub"
LIFETIME_S: Final = 8 * 3600
"""R89: a token lasts 8 hours."""
ALL: Final = "*"
MIN_SECRET_BYTES: Final = 32
_REMEMBERED: Final = 10_000
_FAR: Final = 1e12
"""No time is further off: the largest number would never expire."""
# `$` also stands before a line break at the end: without it.
_SYSTEM: Final = re.compile(SYSTEM_FORM.removesuffix("$"))
_TENANT: Final = re.compile(TENANT_FORM.removesuffix("$"))

Algorithm = Literal["HS256", "EdDSA"]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says. `expires_at` is in Unix seconds."""

    subject: str
    token_id: str
    system: str
    tenants: frozenset[str]
    scopes: frozenset[str]
    expires_at: float
    device_id: str | None = None
    view: Literal["full", "masked"] = "full"

    def holds(self, tenant_id: str) -> bool:
        """Whether the token is good for a tenant."""
        return ALL in self.tenants or tenant_id in self.tenants

    @property
    def all_tenants(self) -> bool:
        """Whether the token is good for every tenant."""
        return ALL in self.tenants

    def has(self, scope: str) -> bool:
        """Whether the token has a plain scope; `admin` has `ops`."""
        return scope in self.scopes or (scope == "ops" and "admin" in self.scopes)

    def patterns(self, verb: Literal["publish", "subscribe"]) -> frozenset[str]:
        """The patterns the token may publish or subscribe to."""
        prefix = f"{verb}:"
        return frozenset(scope.removeprefix(prefix) for scope in self.scopes if scope.startswith(prefix))

    def may(self, verb: Literal["publish", "subscribe"], pattern: str) -> bool:
        """Whether everything under the pattern is within the token's scopes."""
        return _may(self.scopes, verb, pattern)

    def require(self, scope: str) -> None:
        """Refuse a token without a plain scope.

        Raises:
            Problem: `forbidden`.
        """
        if not self.has(scope):
            raise Problem("forbidden", f"the token lacks the scope {scope}")

    def syncing(self) -> Claims:
        """The same for what a device that works offline does: it says and sees all that its system may.

        Raises:
            Problem: `forbidden`: without the scope `sync`, or with the masked view, which nobody can work on.
        """
        self.require("sync")
        if self.view != "full":
            raise Problem("forbidden", "a masked copy cannot be worked on; sync needs a token with view `full`")
        return replace(self, scopes=self.scopes | {"publish:*", "subscribe:*"})

    def require_device(self, device_id: str) -> None:
        """Refuse a token that is another device's.

        Raises:
            Problem: `forbidden`.
        """
        if self.device_id is not None and self.device_id != device_id:
            raise Problem("forbidden", f"device_id: the token is for the device {self.device_id}")

    def require_tenant(self, tenant_id: str) -> None:
        """Refuse a tenant the token does not hold.

        Raises:
            Problem: `forbidden`.
        """
        if not self.holds(tenant_id):
            raise Problem("forbidden", f"the token does not hold the tenant {tenant_id}")


@lru_cache(maxsize=20_000)
def _may(scopes: frozenset[str], verb: str, pattern: str) -> bool:
    prefix = f"{verb}:"
    return patterns.covered((scope.removeprefix(prefix) for scope in scopes if scope.startswith(prefix)), pattern)


@dataclass(frozen=True, slots=True)
class Key:
    """A verification key; `signing` where this hub may sign with it."""

    kid: str
    algorithm: Algorithm
    verifying: Any
    signing: Any = None


class Tokens:
    """Verifies tokens; remembers verified ones, since a signature does not change."""

    def __init__(self, keys: Iterable[Key], clock: Callable[[], float] = time.time) -> None:
        self._keys = {key.kid: key for key in keys}
        self._clock = clock
        self._known: OrderedDict[str, Claims] = OrderedDict()

    def verify(self, token: str) -> Claims:
        """The claims of a token.

        Raises:
            Problem: `unauthorized` or `token_expired`.
        """
        claims = self._known.get(token)
        if claims is None:
            claims = self._verify(token)
            self._known[token] = claims
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        if claims.expires_at <= self._clock():
            raise Problem("token_expired")
        return claims

    def expired(self, claims: Claims) -> bool:
        """Whether a token that was good is no longer."""
        return claims.expires_at <= self._clock()

    def _verify(self, token: str) -> Claims:
        try:
            header = jwt.get_unverified_header(token)
            key = self._keys.get(str(header.get("kid", "")))
            if key is None:
                raise Problem("unauthorized", "the token names no key (kid) this hub knows")
            if header.get("alg") != key.algorithm:
                raise Problem("unauthorized", f"the token's key is for {key.algorithm}, its header says otherwise")
            payload = jwt.decode(
                token,
                key.verifying,
                algorithms=[key.algorithm],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"require": ["exp", "iss", "aud", "sub", "jti"], "verify_exp": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, UnicodeError, RecursionError) as error:
            raise Problem("unauthorized", f"the token is not valid: {error}") from error
        claims = _claims(payload)
        if claims.system == HUB and key.signing is None:
            raise Problem("unauthorized", f"the system {HUB} is the hub's own; only its own key speaks for it")
        return claims

    def sign(self, payload: Mapping[str, Any]) -> str:
        """Sign claims with the hub's own key; issuer, audience and token id are filled in."""
        key = next(key for key in self._keys.values() if key.signing is not None)
        whole = {"iss": ISSUER, "aud": AUDIENCE, "jti": uuid.uuid4().hex} | dict(payload)
        return jwt.encode(whole, key.signing, algorithm=key.algorithm, headers={"kid": key.kid})

    def issue(
        self,
        system: str,
        tenants: Iterable[str],
        scopes: Iterable[str],
        *,
        subject: str = "",
        lifetime_s: float = LIFETIME_S,
        device_id: str | None = None,
        view: Literal["full", "masked"] = "full",
    ) -> str:
        """A token signed with the hub's own key.

        Raises:
            Problem: `unauthorized`, when the claims would not be accepted back.
        """
        payload: dict[str, Any] = {
            "sub": subject or system,
            "system": system,
            "tenants": list(tenants),
            "scopes": list(scopes),
            "exp": self._clock() + lifetime_s,
            "view": view,
        }
        if device_id is not None:
            payload["device_id"] = device_id
        _claims(payload | {"jti": "-"})
        return self.sign(payload)


def _claims(payload: Mapping[str, Any]) -> Claims:
    def texts(name: str) -> frozenset[str]:
        value = payload.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise Problem("unauthorized", f"the token's {name} must be a list of strings")
        return frozenset(value)

    system, expires = payload.get("system"), payload.get("exp")
    if not isinstance(system, str) or not _SYSTEM.fullmatch(system):
        raise Problem("unauthorized", "the token's system must be a name like hotel-pms")
    # NaN is not less than anything.
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not abs(expires) < _FAR:
        raise Problem("unauthorized", "the token's exp must be a number of seconds")
    tenants = texts("tenants")
    for tenant in tenants:
        if tenant != ALL and not _TENANT.fullmatch(tenant):
            raise Problem("unauthorized", f"the token's tenant {tenant!r} is not a tenant id")
    view = payload.get("view", "full")
    if view not in ("full", "masked"):
        raise Problem("unauthorized", "the token's view must be full or masked")
    device = payload.get("device_id")
    if device is not None and not isinstance(device, str):
        raise Problem("unauthorized", "the token's device_id must be a string")
    return Claims(
        subject=str(payload.get("sub", "")),
        token_id=str(payload["jti"]),
        system=system,
        tenants=tenants,
        scopes=texts("scopes"),
        expires_at=float(expires),
        device_id=device,
        view=view,
    )


def own_key(data_dir: Path) -> Key:
    """The hub's own Ed25519 key, made at first start and readable by its owner alone.

    Raises:
        StartError: the file is there but cannot be used.
    """
    path = data_dir / "keys" / "hub.pem"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        # Not by pid alone: in a container every start has the same, and one may have been killed right here.
        fresh = path.with_name(f".hub.pem.{os.getpid()}.{uuid.uuid4().hex}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, path)  # fails if another process was first; then its key counts
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    if path.stat().st_mode & 0o077:
        raise StartError(f"the key {path} can be read by others", f"Run chmod 600 {path}")
    try:
        private = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise StartError(
            f"the key {path} cannot be read: {error}", "Restore it, or remove it to make a new one"
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise StartError(f"the key {path} is not an Ed25519 key", "Restore it, or remove it to make a new one")
    public = private.public_key()
    mark = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()[:16]
    return Key(f"hub-{mark}", "EdDSA", public, private)


def keys_from_file(path: Path) -> list[Key]:
    """Keys of other issuers from a JWK Set: `oct` with alg HS256, `OKP` Ed25519 with alg EdDSA; each with its `kid`.

    Raises:
        StartError: the file is not such a set.
    """
    fix = 'Write {"keys": [{"kty": "oct", "kid": "…", "alg": "HS256", "k": "…"}]}'
    try:
        found = orjson.loads(path.read_bytes())["keys"]
        keys: list[Key] = []
        for one in found:
            kid, algorithm = one["kid"], one["alg"]
            if not isinstance(kid, str) or not kid or any(key.kid == kid for key in keys):
                raise StartError(f"HUB_JWT_KEYS {path}: the kid {kid!r} is not a name of its own", fix)
            if (one["kty"], algorithm) not in (("oct", "HS256"), ("OKP", "EdDSA")):
                raise StartError(f"HUB_JWT_KEYS {path}: key {kid} is {one['kty']} for {algorithm}", fix)
            key = jwt.PyJWK.from_dict(one, algorithm=algorithm).key
            if algorithm == "HS256" and len(key) < MIN_SECRET_BYTES:
                raise StartError(
                    f"HUB_JWT_KEYS {path}: the secret of {kid} is shorter than 32 bytes", "Use a longer one"
                )
            keys.append(Key(kid, algorithm, key))
    except (OSError, KeyError, TypeError, ValueError, jwt.PyJWTError) as error:
        raise StartError(f"HUB_JWT_KEYS {path} cannot be read: {error!r}", fix) from error
    return keys
