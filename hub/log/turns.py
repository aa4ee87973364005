"""Turns at something that one hub after the other may do: short, and over by itself when its holder dies."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog

from hub.log.stream_log import StreamLog
from hub.log.topology import RedisError

HELD_MS: Final = 5_000
"""A turn is over after so long, whatever became of its holder; what is done in it takes milliseconds."""
WAIT_S: Final = 2.0
FIRST_PAUSE_S: Final = 0.002
LONGEST_PAUSE_S: Final = 0.05

_LET_GO: Final = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"

log = structlog.get_logger("hub.log")


@asynccontextmanager
async def turn(stream_log: StreamLog, tenant_id: str, name: str) -> AsyncIterator[None]:
    """Held while something is done that only one hub or worker at a time may do for a tenant.

    Raises:
        TimeoutError: others had it for all of `WAIT_S`.
        RedisError, OSError: the log does not answer.
    """
    key = stream_log.keys.turn(stream_log.partition(tenant_id), tenant_id, name)
    client, token, pause = stream_log.source.client, secrets.token_hex(8), FIRST_PAUSE_S
    try:
        async with asyncio.timeout(WAIT_S):
            while not await client.set(key, token, nx=True, px=HELD_MS):
                await asyncio.sleep(random.uniform(0.5, 1.0) * pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
        yield
    finally:
        # Also where it is not known whether the log heard that it was wanted.
        await _let_go(stream_log, key, token)


async def _let_go(stream_log: StreamLog, key: str, token: str) -> None:
    try:
        await stream_log.source.client.eval(_LET_GO, 1, key, token)
    except (RedisError, OSError) as error:
        log.warning("turn_not_given_up", key=key, error=str(error) or type(error).__name__)
