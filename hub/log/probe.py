"""One question to a server, before there is a client for it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

_ANSWER_S = 5.0


async def ask(socket: Path, command: bytes) -> bytes | None:
    """The first line of the server's reply to an inline command; empty when it hangs up instead, as after SHUTDOWN.

    None when nobody is there or answers within 5 s. By hand and not with a client: a client's handshake, retries and
    error types differ between its versions, and the difference between "not there", "loading" and "ready" is the point.
    """
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(command + b"\r\n")
                return (await reader.readline()).strip()
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return None
