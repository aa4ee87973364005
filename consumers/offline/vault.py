"""What the desk keeps sealed: AES-256-GCM, and where it lies.

A sealed value tells when it was changed, or put in another one's place: what it is goes into the seal. It does not tell
that an older copy of the whole file was put back.
"""

from __future__ import annotations

import asyncio
import os
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import orjson

from consumers.errors import ConsumerError
from consumers.offline.database import LocalDatabase

KEY_BYTES: Final = 32
SECRETS: Final = "secrets"
"""The name under which all secrets lie together."""

_FORMAT: Final = b"\x01"
_NONCE_BYTES: Final = 12

T = TypeVar("T")


class Vault(Protocol):
    """Small opaque values by name. `put` returns once the value would survive a crash, and replaces it as a whole."""

    def get(self, name: str) -> bytes | None:
        """A value as it was put; None: there is none."""
        ...

    def put(self, name: str, value: bytes | None) -> None:
        """Keep a value; None removes it."""
        ...


class Local(Protocol):
    """The desk's database on its own thread (`consumers.offline.local_thread`)."""

    async def call(self, work: Callable[[LocalDatabase], T]) -> T:
        """Run `work` on the database and return what it returns."""
        ...


class DatabaseVault:
    """The vault of a database, for who works on its thread."""

    def __init__(self, database: LocalDatabase) -> None:
        self._database = database

    def get(self, name: str) -> bytes | None:
        """A value as it was put."""
        return self._database.vault(name)

    def put(self, name: str, value: bytes | None) -> None:
        """Keep a value; None removes it."""
        self._database.put_vault(name, value)


class ThreadVault:
    """The vault of a database on its own thread, for who works on a third one (`asyncio.to_thread`).

    Never to be called on the event loop's own thread, which it would hold up for ever: that is refused.
    """

    def __init__(self, local: Local, loop: asyncio.AbstractEventLoop) -> None:
        self._local = local
        self._loop = loop

    def get(self, name: str) -> bytes | None:
        """A value as it was put."""
        return self._call(lambda database: database.vault(name))

    def put(self, name: str, value: bytes | None) -> None:
        """Keep a value; None removes it."""
        self._call(lambda database: database.put_vault(name, value))

    def _call(self, work: Callable[[LocalDatabase], T]) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(self._local.call(work), self._loop).result()
        raise RuntimeError("the vault waits for the database: call it by asyncio.to_thread, not on an event loop")


class CryptographyMissing(ConsumerError):
    """The package that seals is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "what the desk keeps sealed needs the package cryptography: pip install 'hotel-event-hub[offline]'"
        )


class SealBroken(ConsumerError):
    """A sealed value was changed, cut or put in another one's place, or was sealed under another key.

    Nothing of it can be used. Sealing a new value under the same name puts it right. `what` names it.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"the sealed {what} is not what was sealed: it was damaged or tampered with")
        self.what = what


class VaultLocked(ConsumerError):
    """Nobody is signed in who could open it: it takes an operator's PIN."""

    def __init__(self) -> None:
        super().__init__("the vault is locked: sign in with your PIN")


def cipher(key: bytes) -> Any:
    """AES-256-GCM under `key`.

    Raises:
        CryptographyMissing: the extra `offline` is not installed.
    """
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise CryptographyMissing from error
    return AESGCM(key)


def seal(key: bytes, value: bytes, *what: str) -> bytes:
    """Seal a value under a key of 32 bytes; `what` says what it is, and takes part in the seal.

    Raises:
        CryptographyMissing: the extra `offline` is not installed.
    """
    nonce = os.urandom(_NONCE_BYTES)
    sealed: bytes = cipher(key).encrypt(nonce, value, _named(what))
    return _FORMAT + nonce + sealed


def unseal(key: bytes, sealed: bytes, *what: str) -> bytes:
    """What was sealed under this key as `what`.

    Raises:
        SealBroken: it was not, or it is not as it was.
        CryptographyMissing: the extra `offline` is not installed.
    """
    opener = cipher(key)
    from cryptography.exceptions import InvalidTag

    nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    if sealed[:1] != _FORMAT or len(nonce) != _NONCE_BYTES:
        raise SealBroken(what[0])
    try:
        value: bytes = opener.decrypt(nonce, body, _named(what))
    except InvalidTag as error:
        raise SealBroken(what[0]) from error
    return value


def _named(what: tuple[str, ...]) -> bytes:
    # As JSON: no two lists of words are spelled alike.
    return orjson.dumps(["hotel-desk", 1, *what])


class Secrets:
    """The desk's secrets by name, sealed under its data key. May be used from several threads.

    Every method raises `VaultLocked` once it was locked, and `SealBroken` when what is kept was tampered with, but for
    `start_over`.
    """

    def __init__(self, vault: Vault, key: bytes, lock: threading.RLock) -> None:
        """`lock` is shared by all who write the same vault's secrets."""
        self._vault = vault
        self._key: bytes | None = key
        self._lock = lock

    def get(self, name: str) -> bytes | None:
        """A secret as it was put; None: there is none."""
        with self._lock:
            return self._all().get(name)

    def put(self, name: str, value: bytes | None) -> None:
        """Keep a secret, durably; None removes it."""
        with self._lock:
            kept = {**self._all(), name: value}
            self._keep({name: value for name, value in kept.items() if value is not None})

    def start_over(self) -> None:
        """Forget all secrets: the way out when their seal is broken."""
        with self._lock:
            self._keep({})

    def key(self) -> bytes:
        """The data key, to wrap it for another operator."""
        return self._open()

    def lock(self) -> None:
        """Let go of the key. May be called twice."""
        self._key = None

    def _open(self) -> bytes:
        if self._key is None:
            raise VaultLocked
        return self._key

    def _all(self) -> dict[str, bytes]:
        key = self._open()
        sealed = self._vault.get(SECRETS)
        if sealed is None:
            return {}
        read: dict[str, str] = orjson.loads(unseal(key, sealed, SECRETS))
        return {name: b64decode(value) for name, value in read.items()}

    def _keep(self, kept: dict[str, bytes]) -> None:
        text = orjson.dumps({name: b64encode(value).decode() for name, value in kept.items()})
        self._vault.put(SECRETS, seal(self._open(), text, SECRETS))
