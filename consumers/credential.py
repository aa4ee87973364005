"""The client's token: fixed, or fetched anew when it is needed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from consumers.errors import ConsumerError, Disconnected

TokenSource = Callable[[], Awaitable[str]]


class Credential:
    """A token, and where the next one comes from."""

    def __init__(self, token: str | TokenSource) -> None:
        self._source = None if isinstance(token, str) else token
        self._current = token if isinstance(token, str) else None

    @property
    def renewable(self) -> bool:
        """Whether `renew` can give another token than before."""
        return self._source is not None

    async def current(self) -> str:
        """The token in use; the first call may fetch it."""
        return self._current if self._current is not None else await self.renew()

    async def renew(self) -> str:
        """A fresh token, when there is a source; else the fixed one.

        Raises:
            Disconnected: the source failed; `__cause__` tells how. Worth another attempt later.
        """
        if self._source is not None:
            try:
                self._current = await self._source()
            except ConsumerError:
                raise
            except Exception as error:
                raise Disconnected(f"no token could be fetched: {type(error).__name__}") from error
        assert self._current is not None
        return self._current
