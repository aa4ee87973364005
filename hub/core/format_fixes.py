"""Mends what a desk spelled in another form than the schema has it (R79), and never what it said.

Only what the schema refuses is looked at, so a payload that fits is never changed; and what is put in its place is what
the schema takes. Names may be written in another case or with other separators, or as the source documents have them;
texts may have white space around them or be of full width; numbers and booleans may come as texts, dates with other
separators, instants without an offset: those are told by the property's clock.

What may mean two things stays as it is, and the schema refuses it: 07/08/2026, 16.800, two names of one field, a time
of day that clocks show twice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time, tzinfo
from decimal import Decimal
from functools import cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple, get_args

import orjson
from pydantic import BaseModel, ValidationError

from schemas.registry import EVENT_TYPES
from schemas.types import exact, json_number

Path = tuple[str | int, ...]


class Fix(NamedTuple):
    """One thing that was mended: where it stands in what was sent, and both its forms.

    The forms are part of the payload: they are for who sent it, and for no log.
    """

    path: str
    from_form: Any
    to_form: Any


DOCUMENTED: Final[Mapping[str, str]] = MappingProxyType(
    {"checkouttime": "actual_checkout_time", "checkintime": "actual_checkin_time"}
)
"""Names of the source documents' samples (R49), without separators, and the fields they stand for."""
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9 _-]{0,63}")
_SEPARATORS: Final = str.maketrans("", "", " _-")
_HALF_WIDTH: Final = {0xFF01 + step: 0x21 + step for step in range(94)} | {0x3000: 0x20}


def fixed(
    type: str, payload: dict[str, Any], zone: tzinfo, version: int | None = None
) -> tuple[dict[str, Any], list[Fix]]:
    """The payload of an item as the schema of its type has it, as far as that is a matter of form; and what was mended.

    `version` is the schema's, None the newest. Without a fix it is the same object. Fixing it again changes nothing.
    """
    kind = EVENT_TYPES.get(type)
    model = None if kind is None else kind.versions.get(kind.newest if version is None else version)
    if model is None:
        return payload, []
    refused = _refused(model, payload)
    if not refused:
        return payload, []
    fixes: list[Fix] = []
    names: dict[Path, Path] = {}
    mended = _renamed(payload, _shape(model), (), (), names, fixes)
    if fixes:
        refused = _refused(model, mended)
    for form in _FORMS:
        tried = {path: put for path in refused if (put := form(_at(mended, path), zone)) is not None}
        if not tried:
            continue
        candidate = _with(mended, tried)
        still = _refused(model, candidate)
        taken = {path: put for path, put in tried.items() if path not in still}
        fixes += [Fix(_said(path, names), _at(mended, path), put) for path, put in taken.items()]
        mended = candidate if len(taken) == len(tried) else _with(mended, taken)
        refused = refused - taken.keys()
    return (mended, fixes) if fixes else (payload, [])


def _refused(model: type[BaseModel], payload: Mapping[str, Any]) -> frozenset[Path]:
    """Where the schema refuses what is there."""
    try:
        model.__pydantic_validator__.validate_json(orjson.dumps(payload))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return frozenset(one["loc"] for one in found if one["loc"] and one["type"] != "missing")
    except (orjson.JSONEncodeError, RecursionError):
        return frozenset()
    return frozenset()


def _at(value: Any, path: Path) -> Any:
    """What stands at a path; None where nothing does."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _with(value: Any, changes: Mapping[Path, Any]) -> Any:
    """A copy with other values at some paths."""
    below: dict[str | int, dict[Path, Any]] = {}
    for path, put in changes.items():
        if not path:
            return put
        below.setdefault(path[0], {})[path[1:]] = put
    if isinstance(value, dict):
        return {name: _with(one, below[name]) if name in below else one for name, one in value.items()}
    return [_with(one, below[at]) if at in below else one for at, one in enumerate(value)]


def _said(path: Path, names: Mapping[Path, Path]) -> str:
    """A path as it was sent."""
    for end in range(len(path), 0, -1):
        if (sent := names.get(path[:end])) is not None:
            path = (*sent, *path[end:])
            break
    return ".".join(map(str, path))


# -- names ------------------------------------------------------------------------------------------------------------


class _Shape(NamedTuple):
    """The fields of a model: by their letters alone, and those that hold models themselves."""

    fields: frozenset[str]
    by_letters: Mapping[str, str]
    nested: Mapping[str, _Shape]


@cache
def _shape(model: type[BaseModel]) -> _Shape:
    letters = Counter(name.translate(_SEPARATORS) for name in model.model_fields)
    by_letters = {text: name for name in model.model_fields if letters[text := name.translate(_SEPARATORS)] == 1}
    by_letters |= {text: name for text, name in DOCUMENTED.items() if name in model.model_fields}
    nested = {}
    for name, info in model.model_fields.items():
        for inner in _models_within(info.annotation):
            nested[name] = _shape(inner)
    return _Shape(frozenset(model.model_fields), by_letters, nested)


def _models_within(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_within(inner)


def _renamed(value: Any, shape: _Shape, at: Path, sent: Path, names: dict[Path, Path], fixes: list[Fix]) -> Any:
    """A value with its fields under the schema's names. `at` and `sent` are its path as it is now, and as it was sent;
    `names` gets the paths that differ."""
    if isinstance(value, list):
        return [_renamed(one, shape, (*at, no), (*sent, no), names, fixes) for no, one in enumerate(value)]
    if not isinstance(value, dict):
        return value
    meant = {name: name if name in shape.fields else _field(name, shape) for name in value}
    wanted = Counter(field for field in meant.values() if field is not None)
    found: dict[str, Any] = {}
    for name, one in value.items():
        field = meant[name]
        put = name if field is None or wanted[field] > 1 else field
        if put != name:
            fixes.append(Fix(".".join(map(str, (*sent, name))), name, put))
        if (*at, put) != (*sent, name):
            names[(*at, put)] = (*sent, name)
        inner = shape.nested.get(put)
        found[put] = one if inner is None else _renamed(one, inner, (*at, put), (*sent, name), names, fixes)
    return found


def _field(name: str, shape: _Shape) -> str | None:
    plain = name.translate(_HALF_WIDTH).strip()
    return shape.by_letters.get(plain.translate(_SEPARATORS).lower()) if _NAME.fullmatch(plain) else None


# -- values -----------------------------------------------------------------------------------------------------------

_NUMBER: Final = re.compile(r"[+-]?([0-9]{1,15}|[0-9]{1,3}(,[0-9]{3}){1,4})(\.[0-9]{1,4})?")
_THOUSANDS: Final = re.compile(r"[+-]?[0-9]{1,3}\.[0-9]{3}")
"""A decimal in one country, thousands in another."""
_DAY: Final = re.compile(
    r"([0-9]{4})(?:([-/.])([0-9]{1,2})\2([0-9]{1,2})|年([0-9]{1,2})月([0-9]{1,2})日|([0-9]{2})([0-9]{2}))"
)
_INSTANT: Final = re.compile(
    r"(?P<day>[0-9]{4}[-/.年]?[0-9]{1,2}[-/.月]?[0-9]{1,2}日?)(?:[Tt]| {1,2})"
    r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?P<fraction>\.[0-9]{1,9})?)?"
    r" ?(?P<offset>[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?"
)


def _trimmed(value: Any, _: tzinfo) -> Any:
    """Without white space around it."""
    if not isinstance(value, str):
        return None
    plain = value.strip()
    return plain if plain and plain != value else None


def _plain(value: Any, _: tzinfo) -> Any:
    """In letters and digits of half width."""
    if not isinstance(value, str):
        return None
    plain = value.translate(_HALF_WIDTH).strip()
    return plain if plain and plain != value else None


def _number(value: Any, _: tzinfo) -> Any:
    """A number that is written as text; a whole one that is written with a decimal point."""
    if type(value) is float:
        return int(value) if value.is_integer() and abs(value) < 2**53 else None
    if not isinstance(value, str):
        return None
    plain = value.translate(_HALF_WIDTH).strip()
    if not _NUMBER.fullmatch(plain) or _THOUSANDS.fullmatch(plain):
        return None
    meant = Decimal(plain.replace(",", ""))
    number = json_number(meant)
    return number if exact(number) == meant else None


def _boolean(value: Any, _: tzinfo) -> Any:
    if not isinstance(value, str):
        return None
    return {"true": True, "false": False}.get(value.translate(_HALF_WIDTH).strip().lower())


def _day(value: Any, _: tzinfo) -> Any:
    """A date whose year comes first."""
    if not isinstance(value, str):
        return None
    found = _read_day(value.translate(_HALF_WIDTH).strip())
    return None if found is None else found.isoformat()


def _read_day(text: str) -> date | None:
    found = _DAY.fullmatch(text)
    if found is None:
        return None
    year, month, day = (part for part in found.group(1, 3, 4, 5, 6, 7, 8) if part is not None)
    try:
        return date(int(year), int(month), int(day))
    except ValueError:
        return None


def _instant(value: Any, zone: tzinfo) -> Any:
    """A moment; by the property's clock where it names no offset."""
    if not isinstance(value, str):
        return None
    found = _INSTANT.fullmatch(value.translate(_HALF_WIDTH).strip())
    day = None if found is None else _read_day(found["day"])
    if found is None or day is None:
        return None
    try:
        moment = datetime.combine(day, time(int(found["hour"]), int(found["minute"]), int(found["second"] or 0)))
    except ValueError:
        return None
    offset = _offset(moment, zone) if found["offset"] is None else _spelled(found["offset"])
    return None if offset is None else f"{moment.isoformat()}{found['fraction'] or ''}{offset}"


def _spelled(offset: str) -> str:
    if offset in "Zz":
        return "Z"
    digits = offset[1:].replace(":", "").ljust(4, "0")
    return f"{offset[0]}{digits[:2]}:{digits[2:]}"


def _offset(moment: datetime, zone: tzinfo) -> str | None:
    """The offset of a time on the property's wall; None of one that comes twice or never."""
    first, second = moment.replace(tzinfo=zone), moment.replace(tzinfo=zone, fold=1)
    if first.utcoffset() != second.utcoffset():
        return None
    try:
        if first.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != moment:
            return None
    except OverflowError:
        return None
    return first.isoformat()[len(moment.isoformat()) :]


_FORMS: Final[tuple[Callable[[Any, tzinfo], Any], ...]] = (_trimmed, _plain, _number, _boolean, _day, _instant)
"""What may be put in the place of a value that is refused, None for nothing. The first that the schema takes is taken:
a field takes one kind of value."""
