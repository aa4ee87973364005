"""Entries of the events stream as a consumer group reads them, and the dead letters made of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from schemas import registry
from schemas.envelope import Event
from schemas.stream import FIELDS

TYPE, DATA, EVENT_ID, TENANT, ACTION, ENTITY = 1, 3, 7, 9, 11, 13
"""Where the values stand in an entry's flat field list."""

_END: Final = 2 * len(FIELDS)
_LETTER: Final = frozenset({b"reason", b"attempts", b"failed_at", b"source_id"})
_REASON_CHARS: Final = 1000


class Undecodable(ValueError):
    """An entry is not an event; the text says why, without the entry's content."""


def in_order(fields: Sequence[bytes]) -> Sequence[bytes]:
    """The entry's fields with the nine of an event first, in their order.

    Raises:
        Undecodable: one is missing.
    """
    if tuple(fields[:_END:2]) == FIELDS:
        return fields
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    missing = [name.decode() for name in FIELDS if name not in named]
    if missing:
        raise Undecodable(f"fields are missing: {', '.join(missing)}")
    return _flat(named)


def read(fields: Sequence[bytes]) -> Event[Any]:
    """The typed event of an entry whose fields are `in_order`.

    Raises:
        Undecodable: it does not fit its schema.
    """
    try:
        return registry.read(fields[DATA])
    except ValidationError as error:
        places = [f"{one.path}: {one.message}" if one.path else one.message for one in registry.field_errors(error)]
        raise Undecodable("; ".join(places)) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Undecodable(f"event_data is not an event: {type(error).__name__}: {error}") from error


def replay_of(fields: Sequence[bytes]) -> str | None:
    """The replay an entry of the redrive stream belongs to; None for a dead letter that was never replayed."""
    for at in range(_END, len(fields), 2):
        if fields[at] == b"replay":
            return fields[at + 1].decode(errors="replace")
    return None


def dead_letter(
    id: bytes, fields: Sequence[bytes], reason: str, attempts: int, failed_at: datetime
) -> list[bytes | str]:
    """The fields of the dead letter of an entry: its own nine, `''` for those it lacks, then what became of it.

    A letter that was redriven and failed again keeps the id it had in the events stream, and a replayed one its replay.
    """
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    source = named.get(b"source_id", id)
    kept = {name: named.get(name, b"") for name in FIELDS}
    kept |= {name: value for name, value in named.items() if name not in _LETTER}
    return [
        *_flat(kept),
        *("reason", reason[:_REASON_CHARS]),
        *("attempts", str(attempts)),
        *("failed_at", failed_at.isoformat(timespec="milliseconds")),
        *("source_id", source),
    ]


def _flat(named: dict[bytes, bytes]) -> list[bytes]:
    names = [*FIELDS, *(name for name in named if name not in FIELDS)]
    return [part for name in names for part in (name, named[name])]
