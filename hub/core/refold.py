"""A stored state held against its events, folded anew (R80): how `hub/core/projection.py` would make it today.

Where the retention removed an entity's oldest events, nobody can fold it from nothing. Then the events that are left
are folded on top of the stored state: had it been right, they change nothing. That finds whatever they speak of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from hub.core import versions
from hub.core.projection import Folding, State, newest
from schemas.cursor import StreamId

MAX_NAMED: Final = 10
"""Fields that are named of one state."""


class Difference(NamedTuple):
    """A state that is not what its events say: which, and how, without any of its values."""

    type: str
    entity: str
    words: str


class Refolding:
    """One entity's states, folded anew from its events, in their order."""

    def __init__(self, entity: str, held: Mapping[str, State], *, whole: bool) -> None:
        """`held` are the stored states by the type of their events; `whole`: all events there ever were will come."""
        self._entity = entity
        self._held = held
        self._foldings: dict[str, Folding] = {}
        self._whole = whole

    def add(self, type: str, body: bytes, sequence: int, id: StreamId) -> None:
        """Fold in an event, as the projection does."""
        folding = self._foldings.get(type)
        if folding is None:
            folding = self._foldings[type] = Folding(type, None if self._whole else self._held.get(type))
        try:
            event = orjson.loads(body)
        except ValueError:
            return
        folding.add(event, sequence, id)

    @property
    def types(self) -> Iterable[str]:
        """Of which types there were events."""
        return self._foldings.keys()

    def differences(self) -> list[Difference]:
        """The states that are not what the events say."""
        found = []
        for type, folding in self._foldings.items():
            held = self._held.get(type)
            words = self._difference(type, held, folding.state)
            if words is not None:
                found.append(Difference(type, self._entity, words))
        if self._whole:
            unmade = sorted(self._held.keys() - self._foldings.keys())
            found += [Difference(type, self._entity, "no event made it") for type in unmade]
        return found

    def _difference(self, type: str, held: State | None, anew: State | None) -> str | None:
        if held is None and anew is None:
            return None
        if held is None:
            return "its events led to a state that is not there"
        if anew is None:
            return "no event made it"
        held, anew = newest(type, held), newest(type, anew)
        for name in ("revision", "sequence", "id", "schema_version", "seen_by_all", "seen_by_some"):
            if getattr(held, name) != getattr(anew, name):
                return f"its {name} is another"
        if self._whole and versions.exact(held.writers) and held.writers != anew.writers:
            return "its version is another"
        if _spelled(held.data) == _spelled(anew.data):
            return None
        names = sorted(name for name in {*held.data, *anew.data} if _field(held.data, name) != _field(anew.data, name))
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        return f"its {', '.join(names[:MAX_NAMED])}{more} differ" if len(names) != 1 else f"its {names[0]} differs"


def _spelled(value: Any) -> bytes:
    """To Python 1, 1.0 and true are the same."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _field(data: Mapping[str, Any], name: str) -> bytes | None:
    return _spelled(data[name]) if name in data else None
