"""The desk's token: kept sealed, and fetched anew without asking anybody while an operator is signed in (R85, R90).

When it has expired and nobody is signed in, the screen says 「セッション期限切れ・復旧時再認証」 (R100). The PIN opens
the sealed credential; a fresh token is fetched as soon as the hub is reached, and the sync goes on by itself.
"""

from __future__ import annotations

import asyncio
import binascii
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, Self

import orjson
import structlog

from consumers.errors import ConsumerError, Disconnected
from consumers.offline.errors import LocalError
from consumers.offline.sessions import Session, SessionEnded
from consumers.offline.vault import SealBroken, Secrets, VaultLocked

log = structlog.get_logger(__name__)

TOKEN: Final = "token"
CREDENTIAL: Final = "credential"
"""The names of the secrets: the token in use, and what a new one is had for."""
RENEW_BEFORE: Final = timedelta(minutes=10)
"""A token is renewed this long before it expires: a line that is bad just then has time to get better."""

State = Literal["valid", "expiring", "expired"]


class UnreadableToken(ConsumerError):
    """A token is not a JWT with an expiry. Never holds the token."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"token: must be a JWT with a claim exp ({reason})")


class PinRequired(ConsumerError):
    """A fresh token takes what is sealed, and nobody is signed in to open it."""

    def __init__(self) -> None:
        super().__init__("the token has expired: sign in with your PIN")


class NoCredential(ConsumerError):
    """The desk was never given what a token is had for."""

    def __init__(self) -> None:
        super().__init__("no token that the hub takes, and nothing to fetch one with: give the desk a new token")


@dataclass(frozen=True, slots=True)
class CachedToken:
    """A token and when it expires, as it says itself: only the hub can tell whether it is good."""

    token: str = field(repr=False)
    expires_at: datetime

    def state(self, now: datetime) -> State:
        """Whether it is still to be used at `now`, a time with an offset, by the hub's clock where that is known."""
        left = self.expires_at - now
        return "expired" if left <= timedelta(0) else "expiring" if left <= RENEW_BEFORE else "valid"

    @classmethod
    def read(cls, token: str) -> Self:
        """Take the expiry out of a JWT (RFC 7519), unverified.

        Raises:
            UnreadableToken: it has none.
        """
        parts = token.split(".")
        if len(parts) != 3:
            raise UnreadableToken("it has no three parts")
        try:
            claims = orjson.loads(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        except (binascii.Error, ValueError) as error:
            raise UnreadableToken("its claims are not readable") from error
        exp = claims.get("exp") if isinstance(claims, dict) else None
        if not isinstance(exp, int | float) or isinstance(exp, bool):
            raise UnreadableToken("exp is not a number")
        try:
            return cls(token, datetime.fromtimestamp(exp, UTC))
        except (ValueError, OverflowError, OSError) as error:
            raise UnreadableToken("exp is no time") from error


def keep_token(secrets: Secrets, token: CachedToken) -> None:
    """Seal a token. Raises what `Secrets` does."""
    secrets.put(TOKEN, token.token.encode())


def cached_token(secrets: Secrets) -> CachedToken | None:
    """The sealed token; None: there is none. Raises what `Secrets` does."""
    kept = secrets.get(TOKEN)
    return None if kept is None else CachedToken.read(kept.decode())


class SilentSignIn:
    """Where the desk's token comes from (`consumers.credential.TokenSource`), as long as an operator is signed in.

    `fetch` turns the sealed credential into a token, at whoever issues them; what it raises goes to the caller, so
    `Disconnected` while the line is down. A token that was handed out once is not handed out again: who asks a second
    time was refused with it.
    """

    def __init__(self, fetch: Callable[[bytes], Awaitable[str]], *, now: Callable[[], datetime]) -> None:
        """`now` gives aware datetimes, by the hub's clock where it is known."""
        self._fetch = fetch
        self._now = now
        self._session: Session | None = None
        self._handed_out: str | None = None
        self._one = asyncio.Lock()

    def signed_in(self, session: Session) -> None:
        """An operator typed a PIN. `Desk.signed_in` tells the desk to go on."""
        self._session = session

    async def state(self) -> State | None:
        """The state of the sealed token; None: there is none, or nobody is signed in to look at it."""
        try:
            cached = await asyncio.to_thread(cached_token, self._secrets())
        except (PinRequired, VaultLocked, SealBroken):
            return None
        return None if cached is None else cached.state(self._now())

    async def token(self) -> str:
        """A token that is good as far as the desk can tell. Cancellation-safe.

        Raises:
            PinRequired: it takes an operator's PIN.
            NoCredential: there is nothing to fetch one with.
            SealBroken: what was sealed was tampered with: `Secrets.start_over`, and sign in at the hub.
            UnreadableToken: what was fetched is no token with an expiry.
        """
        async with self._one:
            secrets = self._secrets()
            try:
                token = await self._good(secrets)
            except VaultLocked as error:
                raise PinRequired from error
            self._handed_out = token.token
            return token.token

    async def _good(self, secrets: Secrets) -> CachedToken:
        cached = await asyncio.to_thread(cached_token, secrets)
        if cached is None or cached.token == self._handed_out:
            return await self._fresh(secrets)
        match cached.state(self._now()):
            case "valid":
                return cached
            case "expired":
                return await self._fresh(secrets)
            case "expiring":
                try:
                    return await self._fresh(secrets)
                except Disconnected:
                    return cached

    async def _fresh(self, secrets: Secrets) -> CachedToken:
        credential = await asyncio.to_thread(secrets.get, CREDENTIAL)
        if credential is None:
            raise NoCredential
        fresh = CachedToken.read(await self._fetch(credential))
        try:
            await asyncio.to_thread(keep_token, secrets, fresh)
        except (LocalError, VaultLocked) as error:
            # The token is good all the same; after a restart another one is fetched.
            log.warning("token_not_kept", error=type(error).__name__)
        return fresh

    def _secrets(self) -> Secrets:
        if self._session is None:
            raise PinRequired
        try:
            return self._session.secrets
        except SessionEnded as error:
            raise PinRequired from error
