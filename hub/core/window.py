"""What was sent to a durable subscriber and is not acknowledged yet. Decisions only."""

from __future__ import annotations

from collections import deque


class Window:
    """By tenant, the sequences that wait for their acknowledgement; at most `size` of them together."""

    __slots__ = ("_epochs", "_waiting", "outstanding", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.outstanding = 0
        self._waiting: dict[str, deque[int]] = {}
        self._epochs: dict[str, set[int]] = {}

    @property
    def full(self) -> bool:
        """Whether nothing more may be sent before something is acknowledged."""
        return self.outstanding >= self.size

    def holds(self, tenant_id: str) -> bool:
        """Whether something of a tenant waits."""
        return bool(self._waiting.get(tenant_id))

    def tenants(self) -> list[str]:
        """The tenants of which something was sent."""
        return list(self._waiting)

    def sent(self, tenant_id: str, sequence: int, epoch: int) -> None:
        """An event was sent; a tenant's come in order."""
        waiting = self._waiting.get(tenant_id)
        if waiting is None:
            waiting = self._waiting[tenant_id] = deque()
            self._epochs[tenant_id] = set()
        waiting.append(sequence)
        self._epochs[tenant_id].add(epoch)
        self.outstanding += 1

    def sent_in(self, tenant_id: str, epoch: int) -> bool:
        """Whether something of a tenant was sent that was stored in this epoch."""
        return epoch in self._epochs.get(tenant_id, ())

    def acked(self, tenant_id: str, upto: int) -> None:
        """A tenant's events up to a sequence are acknowledged."""
        waiting = self._waiting.get(tenant_id, ())
        left = deque(sequence for sequence in waiting if sequence > upto)
        self.outstanding -= len(waiting) - len(left)
        if tenant_id in self._waiting:
            self._waiting[tenant_id] = left

    def forget(self, tenant_id: str) -> bool:
        """Nothing of a tenant is waited for any more; whether something was."""
        self._epochs.pop(tenant_id, None)
        waiting = self._waiting.pop(tenant_id, None)
        self.outstanding -= len(waiting or ())
        return waiting is not None
