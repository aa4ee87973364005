"""How far each tenant's events have been taken in and handled. Decisions only: no I/O, no clock.

Events come in per tenant in order, are handled in any order, and are finished up to the first that is not: the cursor
to acknowledge or keep is the last one below which everything is finished.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from schemas.cursor import Cursor, join, tenant_mark

REST: Final = "*"
"""The key of cursors whose tenants are not known by name (`CursorStore`)."""


Meeting = Literal["met", "rewound", "ahead"]
"""How a kept position met the hub's own: as expected; ours was a guess, and the hub knew of earlier events, which come
now; ours was a guess, and the hub begins after it, where events between the two would be missed."""


class Ticket:
    """One event taken in."""

    __slots__ = ("before", "cursor", "finished", "tenant")

    def __init__(self, tenant: str, cursor: str, before: Cursor | None) -> None:
        self.tenant = tenant
        self.cursor = cursor
        self.before = before
        self.finished = False


class Progress:
    """The positions of one subscription."""

    def __init__(self, kept: Mapping[str, str]) -> None:
        self._under_way: dict[str, deque[Ticket]] = {}
        self.moved = False
        """Whether `kept` has changed; reset by whoever keeps it."""
        self._floors: dict[int, int] = {}
        self.finished = {tenant: cursor for tenant, cursor in kept.items() if tenant != REST}
        """Per tenant, the last cursor below which everything is finished."""
        self._seen = {tenant: Cursor.decode(cursor, tenant) for tenant, cursor in self.finished.items()}
        self._rest = {Cursor.decode(part).tenant: part for part in kept.get(REST, "").split(".") if part}

    def admit(self, tenant: str, cursor: str) -> Ticket | None:
        """Take in an event; None when it was taken in before and must not be handled again.

        Raises:
            Problem: `invalid_cursor`.
        """
        new = Cursor.decode(cursor, tenant)
        seen = self._position(tenant)
        if seen is not None and seen.epoch == new.epoch and new.sequence <= seen.sequence:
            return None
        return self._enter(tenant, cursor, new)

    def finish(self, ticket: Ticket) -> None:
        """The event is handled."""
        ticket.finished = True
        queue = self._under_way[ticket.tenant]
        while queue and queue[0].finished:
            self.finished[ticket.tenant] = queue.popleft().cursor
            self.moved = True

    def restart(self, tenant: str, cursor: str) -> Ticket:
        """Go on from `cursor`, forwards or backwards (after a gap). Counts once the ticket is finished."""
        return self._enter(tenant, cursor, Cursor.decode(cursor, tenant))

    def move(self, tenant: str, cursor: str) -> None:
        """There is nothing more for this client up to `cursor`; never backwards within an epoch."""
        ticket = self.admit(tenant, cursor)
        if ticket is not None:
            self.finish(ticket)

    def move_to(self, next: str, *, tenant: str | None, guessed: bool) -> None:
        """`move` by the end of a page: a cursor of `tenant`, or of several that may not be known by name.

        `guessed`: no position was known, so the hub may know an earlier one for the durable name (`join_named`).
        """
        names = {tenant_mark(name): name for name in (*self._seen, *([tenant] if tenant else []))}
        for part in next.split("."):
            cursor = Cursor.decode(part)
            if guessed:
                self._floors[cursor.tenant] = cursor.sequence
            if cursor.tenant in names:
                self.move(names[cursor.tenant], part)
            else:
                self._rest[cursor.tenant] = part
                self.moved = True

    def begin(self, tenant: str, position: str) -> None:
        """Start at `position`, unless the tenant has a position of its own."""
        if self._position(tenant) is None:
            self.move(tenant, position)

    def join_named(self, tenant: str, position: str) -> Meeting:
        """Meet the position the hub keeps for a durable name; matters where ours goes back to a guess."""
        theirs = Cursor.decode(position, tenant)
        floor = self._floors.pop(theirs.tenant, None)
        ours = self._position(tenant)
        if ours is None or floor is None:
            self.begin(tenant, position)
            return "met"
        if ours.epoch != theirs.epoch or theirs.sequence < floor:
            self.finish(self.restart(tenant, position))
            return "rewound"
        return "met" if theirs.sequence <= ours.sequence else "ahead"

    def withdraw(self, ticket: Ticket) -> None:
        """The event, the last one taken in of its tenant, could not be passed on: it is to come again."""
        self._under_way[ticket.tenant].remove(ticket)
        if ticket.before is None:
            del self._seen[ticket.tenant]
        else:
            self._seen[ticket.tenant] = ticket.before

    def position(self, tenant: str) -> str | None:
        """Where to resume one tenant."""
        seen = self._position(tenant)
        return None if seen is None else seen.encode()

    def joined(self) -> str | None:
        """Where to resume all tenants, as one cursor."""
        return join([*(seen.encode() for seen in self._seen.values()), *self._rest.values()]) or None

    def after(self, tenants: Iterable[str], *, named: bool) -> dict[str, str] | str | None:
        """Where to resume: by tenant, or joined when some tenants have no known name; None when nothing is known.

        Behind the last event taken in; but for a durable name behind the last one finished, as the hub holds for
        done what it need not send, and not where the position is a guess.

        `tenants`: names to try on the positions that have none yet.
        """
        for tenant in tenants:
            self._position(tenant)
        rest = self._rest
        if named:
            known = {name: text for name, text in self.finished.items() if tenant_mark(name) not in self._floors}
            rest = {mark: text for mark, text in rest.items() if mark not in self._floors}
        else:
            known = {name: seen.encode() for name, seen in self._seen.items()}
        if rest:
            return join([*known.values(), *rest.values()])
        return known or None

    def ahead_of(self, told: Mapping[str, str]) -> dict[str, str]:
        """The finished cursors that `told` does not have or is behind: what the hub has yet to hear."""
        return {
            tenant: cursor
            for tenant, cursor in self.finished.items()
            if told.get(tenant) != cursor and (tenant not in told or _ahead(cursor, told[tenant]))
        }

    def kept(self) -> dict[str, str]:
        """What a cursor store should hold now."""
        return self.finished | ({REST: join(list(self._rest.values()))} if self._rest else {})

    def _enter(self, tenant: str, cursor: str, position: Cursor) -> Ticket:
        ticket = Ticket(tenant, cursor, self._seen.get(tenant))
        self._seen[tenant] = position
        self._under_way.setdefault(tenant, deque()).append(ticket)
        return ticket

    def _position(self, tenant: str) -> Cursor | None:
        if tenant in self._seen or not self._rest:
            return self._seen.get(tenant)
        named = self._rest.pop(tenant_mark(tenant), None)
        if named is None:
            return None
        self.finished[tenant] = named
        self._seen[tenant] = position = Cursor.decode(named)
        self.moved = True
        return position


def _ahead(one: str, other: str) -> bool:
    left, right = Cursor.decode(one), Cursor.decode(other)
    return left.epoch == right.epoch and left.sequence > right.sequence
