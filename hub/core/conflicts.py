"""What becomes of an operation that was made without knowing what others did meanwhile (R70-R77).

Every field of an entity is a register. A write to it has a key, and the write with the largest key has the register,
whatever order the writes arrive in:

    key = (rank, time, actor, id), but above the key of every write that its maker had seen

The rank is the policy's: a deletion is above everything, then, where the policy is `system`, the source of authority;
else the time decides (corrected by what is known of the device's clock, R70). That a key lies above all that was seen
makes it grow along causality, so the largest key of all is also the largest of those that nobody has overwritten
knowingly, and no loser has to be looked up again when its winner is overwritten later.

What was seen is told by version vectors. An event that did not come by push counts as made by somebody who had seen
everything before it. Fields that were edited apart merge by themselves. What must not be settled by a clock (money,
which room a guest sleeps in) is a person's to decide.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from hub.core.versions import Vector
from schemas.types import HOTEL_MEMBER, HOTEL_PMS, TRACKING

EXISTENCE: Final = ""
"""The register that says whether the entity is there; no field has this name."""
DELETED: Final = "deleted"
MERGED: Final = "both"
STAY: Final = "checkin_checkout"
ROOM: Final = "room_number"

Key = tuple[int, int, str, str]
_LOWEST: Final[Key] = (-1, 0, "", "")
_EDIT, _AUTHORITY, _DELETION = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Policy:
    """How contests about one type of events are settled."""

    name: Literal["system", "timestamp", "manual"]
    authority: str | None = None
    """Of policy `system`: whose writes go before others'."""
    people: frozenset[str] = frozenset()
    """Fields that a person decides on, whatever the policy of the rest."""
    additive: frozenset[str] = frozenset()
    """Fields that are no state but a movement: all of them count (points, charges)."""
    movements: frozenset[str] = frozenset()
    """Actions that go together with each other in any order, though the policy is `manual`."""


POLICIES: Final[Mapping[str, Policy]] = {
    "reservation": Policy("system", HOTEL_PMS),
    "customer": Policy("system", HOTEL_MEMBER, additive=frozenset({"points_delta", "points_ledger_id"})),
    "room": Policy("timestamp"),
    "billing": Policy(
        "manual",
        additive=frozenset(
            {"charge_id", "order_id", "amount", "category", "payment_method", "estimated", "reason", "balance"}
        ),
        movements=frozenset({"charged"}),
    ),
    "checkin_checkout": Policy("timestamp", people=frozenset({"room_number", "additional_charges"})),
    "order": Policy("timestamp"),
    "daily_report": Policy("manual"),
    "alert": Policy("timestamp"),
    "operation_log": Policy("timestamp"),
}


class Write(NamedTuple):
    """One event of an entity, or an item that is to become one."""

    actor: str
    system: str
    type: str
    action: str
    at_ms: int
    """When it was made, Unix ms, corrected."""
    id: str
    said: Mapping[str, Any]
    """The fields as its maker set them."""
    base: Mapping[str, int] | None = None
    """What its maker had seen; None: everything before it."""
    deletes: bool = False
    touched: frozenset[str] | None = None
    """Which of `said` were news to its maker; None: those that differ from what it had seen."""
    undoes: bool = False
    """Whether it takes back what happened to the guest: a check-in, a check-out, a no-show."""


class Contest(NamedTuple):
    """A field that two set to different values, neither knowing of the other."""

    field: str
    base: Any
    """What the item's maker had seen; None: nothing."""
    current: Any
    incoming: Any
    rival: str
    """The actor of the value it has."""
    wins: bool
    """Whether the item's value goes before it, as far as a clock or a rank decides."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of an item."""

    outcome: Literal["applied", "resolved", "conflict"]
    fields: Mapping[str, Any]
    """What it sets."""
    touched: frozenset[str]
    """What of it was news to its maker."""
    policy: str | None = None
    winner: str | None = None
    contests: tuple[Contest, ...] = ()
    deleted: bool = False
    """Whether the entity is deleted after it."""
    overruled: tuple[str, ...] = ()
    """The actors whose edits a deletion overrules (R72)."""
    reason: str | None = None
    """Why a person is asked."""


class _Held(NamedTuple):
    """A write to one register."""

    dot: tuple[str, int]
    key: Key
    value: Any


def _number(held: _Held) -> int:
    return held.dot[1]


class Registers:
    """All writes to an entity, by (type, field), in the hub's order."""

    def __init__(self, history: Iterable[Write], version: Mapping[str, int]) -> None:
        """`history` is every event of the entity that is kept, in the hub's order, of all types; `version` its own."""
        history = list(history)
        self.counts: Vector = _before(history, version)
        """How many events each actor has made."""
        self.writes: list[tuple[Write, int]] = []
        """Each with its maker's count at it."""
        self.held: dict[tuple[str, str], dict[str, list[_Held]]] = {}
        """By who made them, too: everybody has seen their own, so each one's keys grow."""
        self.winners: dict[tuple[str, str], _Held] = {}
        for write in history:
            self.add(write)

    def seen(self, place: tuple[str, str], base: Mapping[str, int] | None) -> _Held | None:
        """The write that a maker who had seen `base` found in a register."""
        if base is None:
            return self.winners.get(place)
        found: _Held | None = None
        for actor, writes in self.held.get(place, {}).items():
            count = bisect_right(writes, base.get(actor, 0), key=_number)
            if count and (found is None or writes[count - 1].key > found.key):
                found = writes[count - 1]
        return found

    def touched(self, write: Write) -> frozenset[str]:
        """The fields that a write set to something else than its maker had seen."""
        if write.touched is not None:
            return write.touched
        news = set()
        for name, value in write.said.items():
            if name in TRACKING:
                continue
            before = self.seen((write.type, name), write.base)
            if (value is not None if before is None else before.value != value) or name in _additive(write.type):
                news.add(name)
        return frozenset(news)

    def key(self, write: Write, name: str, seen: _Held | None) -> Key:
        """The key of a write to a register."""
        policy = POLICIES.get(write.type, _PLAIN)
        rank = _AUTHORITY if policy.name == "system" and write.system == policy.authority else _EDIT
        if write.deletes and name in (EXISTENCE, *write.said):
            rank = _DELETION
        own: Key = (rank, write.at_ms, write.actor, write.id)
        if seen is None or own > seen.key:
            return own
        return (seen.key[0], seen.key[1] + 1, write.actor, write.id)

    def add(self, write: Write) -> None:
        """One more event."""
        if write.base is not None:
            # What it did itself, it had seen, whatever it says.
            own = max(write.base.get(write.actor, 0), self.counts.get(write.actor, 0))
            write = write._replace(base={**write.base, write.actor: own})
        dot = (write.actor, self.counts.get(write.actor, 0) + 1)
        additive = _additive(write.type)
        for name, value in self.news(write, self.touched(write)).items():
            if name in additive:
                continue
            place = (write.type, name)
            one = _Held(dot, self.key(write, name, self.seen(place, write.base)), value)
            self.held.setdefault(place, {}).setdefault(write.actor, []).append(one)
            holder = self.winners.get(place)
            if holder is None or one.key > holder.key:
                self.winners[place] = one
        self.counts[write.actor] = dot[1]
        self.writes.append((write, dot[1]))

    def news(self, write: Write, touched: frozenset[str]) -> dict[str, Any]:
        """What a write says anew, its being there included."""
        values = {name: write.said.get(name) for name in touched}
        before = self.seen((write.type, EXISTENCE), write.base)
        if write.deletes:
            values[EXISTENCE] = DELETED
        elif before is not None and before.value == DELETED:
            # Who knew that it was deleted and edits it brings it back.
            values[EXISTENCE] = None
        return values

    def _housed(
        self, item: Write, touched: frozenset[str], unseen: Iterable[Write]
    ) -> tuple[Write, frozenset[str], tuple[Contest, ...]]:
        """An item as it is about a guest who is in the room that the stay says.

        Where they sleep is settled at the check-in, by a person where two desks said otherwise; who had not seen that
        does not move them by a reservation or a check-out.
        """
        housed = self.winners.get((STAY, ROOM))
        moves = item.type == "reservation" or (item.type == STAY and item.action != "checked_in")
        late = moves and ROOM in touched and any(ROOM in one.said for one in unseen if one.type == STAY)
        if not late or housed is None or housed.value in (None, item.said[ROOM]):
            return item, touched, ()
        seen = self.seen((item.type, ROOM), item.base)
        said = item.said[ROOM]
        contest = Contest(ROOM, None if seen is None else seen.value, housed.value, said, housed.dot[0], wins=False)
        return item._replace(said={**item.said, ROOM: housed.value}), touched - {ROOM}, (contest,)

    def decide(self, item: Write) -> Decision:
        """What becomes of an item, by these."""
        base = item.base
        assert base is not None
        unseen = [write for write, number in self.writes if base.get(write.actor, 0) < number]
        policy = POLICIES.get(item.type, _PLAIN)
        touched = self.touched(item)
        item, touched, overruled = self._housed(item, touched, unseen)
        undecided = _contests(self, item, touched)
        contests = (*overruled, *undecided)
        if (reason := _across(item, unseen)) is not None:
            return Decision("conflict", dict(item.said), touched, "manual", contests=contests, reason=reason)
        rivals = [write for write in unseen if write.type == item.type]
        if not rivals and not overruled:
            return Decision("applied", dict(item.said), touched, deleted=item.deletes)
        if policy.movements:
            return _movement(self, item, rivals, touched, policy, contests)
        if people := [one.field for one in undecided if policy.name == "manual" or one.field in policy.people]:
            reason = f"others set {', '.join(people)} to something else meanwhile"
            return Decision("conflict", dict(item.said), touched, "manual", contests=contests, reason=reason)
        return _settled(self, item, rivals, touched, policy, contests)


_PLAIN: Final = Policy("timestamp")


def _additive(type: str) -> frozenset[str]:
    return POLICIES.get(type, _PLAIN).additive


def simple(item: Write, state: Mapping[str, Any] | None) -> Decision:
    """What becomes of an item whose maker had seen everything: it is applied."""
    held = state or {}
    additive = _additive(item.type)
    touched = frozenset(
        name
        for name, value in item.said.items()
        if name not in TRACKING and (name in additive or held.get(name) != value)
    )
    return Decision("applied", dict(item.said), touched, deleted=item.deletes)


def _settled(
    registers: Registers,
    item: Write,
    rivals: Sequence[Write],
    touched: frozenset[str],
    policy: Policy,
    contests: tuple[Contest, ...],
) -> Decision:
    fields = _merged(registers, item, touched, contests)
    held = registers.winners.get((item.type, EXISTENCE))
    deleted = held is not None and held.value == DELETED
    name: str = policy.name if contests else "merge"
    winner = _winner(item, contests)
    overruled: tuple[str, ...] = ()
    if EXISTENCE in registers.news(item, touched):
        seen = registers.seen((item.type, EXISTENCE), item.base)
        if held is None or registers.key(item, EXISTENCE, seen) > held.key:
            deleted = item.deletes
            if item.deletes and (edits := [one.actor for one in rivals if not one.deletes]):
                name, winner, overruled = "delete_wins", item.actor, tuple(dict.fromkeys(edits))
    elif deleted and held is not None:
        name, winner = "delete_wins", held.dot[0]
    return Decision("resolved", fields, touched, name, winner, contests, deleted, overruled)


def _merged(registers: Registers, item: Write, touched: frozenset[str], contests: Iterable[Contest]) -> dict[str, Any]:
    """The item's fields, with what others have set where it brought no news or lost."""
    lost = {one.field for one in contests if not one.wins}
    fields = {}
    for name, value in item.said.items():
        held = registers.winners.get((item.type, name))
        fields[name] = value if held is None or (name in touched and name not in lost) else held.value
    return fields


def _winner(item: Write, contests: Iterable[Contest]) -> str:
    """Whose values the contested fields have."""
    winners = {item.actor if one.wins else one.rival for one in contests}
    return winners.pop() if len(winners) == 1 else MERGED


def _contests(registers: Registers, item: Write, touched: frozenset[str]) -> tuple[Contest, ...]:
    """Where the item and what it had not seen set the same field to different values."""
    found = []
    additive = _additive(item.type)
    for name in sorted(touched - additive):
        place = (item.type, name)
        holder = registers.winners.get(place)
        seen = registers.seen(place, item.base)
        if holder is None or holder is seen or holder.value == item.said.get(name):
            continue
        base = None if seen is None else seen.value
        wins = registers.key(item, name, seen) > holder.key
        found.append(Contest(name, base, holder.value, item.said.get(name), holder.dot[0], wins))
    return tuple(found)


def _movement(
    registers: Registers,
    item: Write,
    rivals: Sequence[Write],
    touched: frozenset[str],
    policy: Policy,
    contests: tuple[Contest, ...],
) -> Decision:
    """Charges add up; that a folio was settled, corrected or refunded meanwhile is a person's to see."""
    others = sorted({one.action for one in (*rivals, item) if one.action not in policy.movements})
    twice = [
        name
        for name in ("charge_id", "order_id")
        if item.said.get(name) is not None and any(one.said.get(name) == item.said[name] for one in rivals)
    ]
    if twice:
        reason = f"the same {twice[0]} was put on this folio meanwhile"
    elif others:
        reason = f"this folio was {' and '.join(others)} while others changed it"
    elif contests:
        reason = f"others set {', '.join(one.field for one in contests)} to something else meanwhile"
    else:
        fields = _merged(registers, item, touched, contests)
        return Decision("resolved", fields, touched, "additive", MERGED)
    return Decision("conflict", dict(item.said), touched, "manual", contests=contests, reason=reason)


def _across(item: Write, unseen: Iterable[Write]) -> str | None:
    """What must not happen to one entity beside each other, in any order, though different fields tell of it."""
    for write in unseen:
        if item.type == "checkin_checkout" and write.type == "reservation":
            if write.deletes:
                return "the reservation was cancelled meanwhile"
            if write.undoes:
                return "what happened to the guest before was undone meanwhile"
        if item.type == "reservation" and write.type == "checkin_checkout" and (item.deletes or item.undoes):
            here = "it is cancelled" if item.deletes else "what happened before is undone"
            return f"the guest was {write.action.replace('_', ' ')} elsewhere, {here} here"
        if item.type == "checkin_checkout" and write.type == item.type:
            pair = {item.action, write.action}
            if pair == {"checked_in", "no_show"} or pair == {"checked_out", "no_show"}:
                return f"the guest was {write.action.replace('_', ' ')} elsewhere, {item.action.replace('_', ' ')} here"
    return None


def _before(history: Iterable[Write], version: Mapping[str, int]) -> Vector:
    """How many events each actor made before those that are kept."""
    kept: Vector = {}
    for write in history:
        kept[write.actor] = kept.get(write.actor, 0) + 1
    return {name: max(0, count - kept.get(name, 0)) for name, count in version.items()}
