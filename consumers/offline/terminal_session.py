"""What opens the desk behind the terminal program: the PIN first, then the line, with the token that the PIN opened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Protocol, TypeVar

from consumers.errors import ClientClosed
from consumers.offline.database import LocalDatabase
from consumers.offline.sessions import Session
from consumers.offline.terminal_setup import claims_of, token_by
from consumers.offline.tokens import (
    CREDENTIAL,
    CachedToken,
    NoCredential,
    SilentSignIn,
    cached_token,
    keep_token,
)
from schemas.types import HOTEL_PMS

T = TypeVar("T")


class Local(Protocol):
    """A database on its own thread."""

    async def call(self, work: Callable[[LocalDatabase], T]) -> T:
        """Run `work` on the database and return what it returns."""
        ...


class Relay:
    """The desk's database, whoever has it open: first the program, to check a PIN, then the desk."""

    def __init__(self) -> None:
        self.to: Local | None = None

    async def call(self, work: Callable[[LocalDatabase], T]) -> T:
        """Run `work` on the database.

        Raises:
            ClientClosed: nobody has it open.
        """
        if self.to is None:
            raise ClientClosed("the desk is closed")
        return await self.to.call(work)


class DeskToken:
    """Where the desk's token comes from, as long as somebody is signed in: sealed, or by the command that prints one.

    Where there is no command, a token is used until the hub does not take it: by this computer's clock, which may be
    wrong, it is not given up. Who asks while another one is being given one gets the same: probe, sync and WebSocket
    begin at once.
    """

    def __init__(self, *, now: Callable[[], datetime]) -> None:
        self._silent = SilentSignIn(token_by, now=now)
        self._session: Session | None = None
        self._given: str | None = None
        self._times = 0
        self._one = asyncio.Lock()

    def signed_in(self, session: Session) -> None:
        """Somebody typed a PIN, or sealed another token."""
        self._session = session
        self._given = None
        self._silent.signed_in(session)

    async def token(self) -> str:
        """A token (`consumers.credential.TokenSource`). Raises as `SilentSignIn.token`."""
        before = self._times
        async with self._one:
            if self._given is not None and self._times > before:
                return self._given
            try:
                token = await self._silent.token()
            except NoCredential:
                token = await self._sealed()
            self._given = token
            self._times += 1
            return token

    async def _sealed(self) -> str:
        """The sealed token, where it was not refused."""
        assert self._session is not None
        cached = await asyncio.to_thread(cached_token, self._session.secrets)
        # Who asks again was refused with the last one.
        if cached is None or cached.token == self._given:
            raise NoCredential
        return cached.token


def seal_access(session: Session, token: str | None, command: str | None) -> None:
    """Keep a token, and the command that prints one, under the desk's data key. Not for the event loop's thread.

    Raises:
        UnreadableToken: the token is none.
        VaultLocked, SealBroken: as `Secrets.put`.
    """
    read = None if token is None else CachedToken.read(token)
    if command:
        session.secrets.put(CREDENTIAL, command.encode())
    if read is not None:
        keep_token(session.secrets, read)


def offered(token: str | None) -> tuple[str | None, str, str | None]:
    """Tenant, system and device that a token is for, as far as it says: what a new desk most likely is."""
    claims = claims_of(token or "")
    tenants = claims.get("tenants")
    tenant = tenants[0] if isinstance(tenants, list) and len(tenants) == 1 and tenants[0] != "*" else None
    system, device = claims.get("system"), claims.get("device_id")
    return (
        tenant if isinstance(tenant, str) else None,
        system if isinstance(system, str) else HOTEL_PMS,
        device if isinstance(device, str) else None,
    )
