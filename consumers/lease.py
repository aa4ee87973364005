"""Leases: exactly one consumer of a group works on a partition at a time, and the partitions are spread evenly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from consumers.stream_keys import PartitionKeys, Script


@dataclass(slots=True)
class Lease:
    """The right to work on one partition. `value` is what every script checks; `expires` is on the loop's clock."""

    keys: PartitionKeys
    value: str
    expires: float


def fair_share(partitions: int, live: int) -> int:
    """How many partitions one of `live` consumers should hold at most."""
    return -(-partitions // max(live, 1))


class Leases:
    """One consumer's leases of one group. `owner` is unique to the process, whatever the consumer is called."""

    def __init__(self, redis: Redis, prefix: str, group: str, consumer: str, owner: str, ttl_s: float) -> None:
        self._members_key = f"{prefix}:consumers:{group}"
        self._redis = redis
        self._group = group
        self._consumer = consumer
        self._owner = owner
        self._ttl_s = ttl_s
        self._ttl_ms = max(1, round(ttl_s * 1000))
        self._members = Script(redis, "group_members")
        self._acquire = Script(redis, "lease_acquire")
        self._renew = Script(redis, "lease_renew")
        self._release = Script(redis, "lease_release")

    async def announce(self) -> int:
        """Register as live for one time to live; the number of the group's live consumers."""
        return int(await self._members([self._members_key], self._owner, self._ttl_ms))

    async def acquire(self, keys: PartitionKeys, now: float) -> Lease | None:
        """The partition's lease, when it is free."""
        fence = int(await self._acquire([keys.lease, keys.fence], self._owner, self._ttl_ms))
        return Lease(keys, f"{self._owner} {fence}", now + self._ttl_s) if fence else None

    async def renew(self, lease: Lease, now: float, events: Sequence[bytes], redriven: Sequence[bytes]) -> bool:
        """Prolong the lease, and reset the idle time of the entries in hand. False: it is lost."""
        in_hand: list[bytes | int] = [len(events), *events, len(redriven), *redriven]
        renewed = await self._renew(
            [lease.keys.lease, lease.keys.events, lease.keys.redrive],
            *(lease.value, self._ttl_ms, self._group, self._consumer),
            *in_hand,
        )
        if renewed:
            lease.expires = now + self._ttl_s
        return bool(renewed)

    async def release(self, lease: Lease) -> None:
        """Give the lease up, so that another need not wait for it to expire."""
        await self._release([lease.keys.lease], lease.value)

    async def leave(self) -> None:
        """Be live no more."""
        await self._redis.zrem(self._members_key, self._owner)
