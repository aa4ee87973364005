"""The Redis keys and scripts a consumer group works with on one partition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """One group's keys on one partition; the hash tag keeps them on one cluster slot."""

    prefix: str
    partition: int
    group: str

    def _of(self, name: str) -> str:
        return f"{self.prefix}:{{p{self.partition:02d}}}:{name}"

    @property
    def events(self) -> str:
        """Stream: the events."""
        return self._of("events")

    @property
    def dead(self) -> str:
        """Stream: the group's dead letters."""
        return self._of(f"dead:{self.group}")

    @property
    def redrive(self) -> str:
        """Stream: dead letters on their way back to the group."""
        return self._of(f"redrive:{self.group}")

    @property
    def lease(self) -> str:
        """String: "<owner> <fence>" of the consumer that may work on the partition."""
        return self._of(f"lease:{self.group}")

    @property
    def fence(self) -> str:
        """String: counts the leases."""
        return self._of(f"fence:{self.group}")


class Script:
    """One Lua script of this package: runs as a whole or not at all."""

    def __init__(self, redis: Redis, name: str) -> None:
        self._script = redis.register_script(Path(__file__).with_name(f"{name}.lua").read_bytes())

    async def __call__(self, keys: Sequence[str], *args: str | bytes | int) -> Any:
        """Run it.

        Raises:
            redis.exceptions.RedisError: as the server or the connection says; it may have run all the same.
        """
        return await self._script(keys=keys, args=args)


async def command(redis: Redis, *args: str | bytes | int) -> Any:
    """Run one command as it stands.

    Raises:
        redis.exceptions.RedisError: as the server or the connection says.
    """
    return await redis.execute_command(*args)  # type: ignore[no-untyped-call]
