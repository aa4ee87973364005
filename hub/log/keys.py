"""The names of everything the log keeps in Redis.

The hash tag `{pNN}` puts all keys of a partition on one cluster slot, so that the scripts may touch them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under one prefix."""

    prefix: str = "hub"

    @property
    def meta(self) -> str:
        """Hash: what was fixed at first start."""
        return f"{self.prefix}:meta"

    def _of(self, partition: int, name: str) -> str:
        return f"{self.prefix}:{{p{partition:02d}}}:{name}"

    def events(self, partition: int) -> str:
        """Stream: the events."""
        return self._of(partition, "events")

    def epoch(self, partition: int) -> str:
        """String: a number that changes when the partition's history is replaced."""
        return self._of(partition, "epoch")

    def sequences(self, partition: int) -> str:
        """Hash: tenant → "sequence id" of its last event."""
        return self._of(partition, "seq")

    def revisions(self, partition: int) -> str:
        """Hash: "tenant entity" → "revision id" of its last event."""
        return self._of(partition, "rev")

    def receipts(self, partition: int, generation: int) -> str:
        """Hash: "tenant event_id" → "sequence revision id nonce", for de-duplication; one a generation."""
        return self._of(partition, f"receipts:{generation}")

    def floor(self, partition: int) -> str:
        """Hash: tenant → "sequence id" of its last event that was trimmed away."""
        return self._of(partition, "floor")

    def positions(self, partition: int) -> str:
        """Hash: "system name tenant" → cursor of a durable WebSocket subscription."""
        return self._of(partition, "positions")

    def tenants(self, partition: int) -> str:
        """Hash: tenant → its settings, JSON."""
        return self._of(partition, "tenants")

    def dead(self, partition: int, group: str) -> str:
        """Stream: dead letters of a consumer group."""
        return self._of(partition, f"dead:{group}")

    def redrive(self, partition: int, group: str) -> str:
        """Stream: dead letters on their way back to the group, and what is replayed to it."""
        return self._of(partition, f"redrive:{group}")

    def replay(self, partition: int, replay_id: str) -> str:
        """Hash: how far a replay to a group is: `at`, the last place looked at, and `events` handed over."""
        return self._of(partition, f"replay:{replay_id}")

    def turn(self, partition: int, tenant_id: str, name: str) -> str:
        """String: who has the turn at something of a tenant's (`hub.log.turns`)."""
        return self._of(partition, f"turn:{tenant_id} {name}")


def partition_of(tenant_id: str, partitions: int) -> int:
    """The partition that holds all of a tenant's events."""
    return crc32(tenant_id.encode()) % partitions
