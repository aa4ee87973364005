"""JSON Merge Patch (RFC 7396): how one state of an entity becomes the next."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

Object = dict[str, Any]

_ABSENT: Final = object()


def apply(state: Mapping[str, Any], patch: Mapping[str, Any]) -> Object:
    """`state` after the patch; neither is changed."""
    after = dict(state)
    for name, value in patch.items():
        if value is None:
            after.pop(name, None)
        elif isinstance(value, dict):
            held = after.get(name)
            after[name] = apply(held if isinstance(held, dict) else {}, value)
        else:
            after[name] = value
    return after


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Object | None:
    """The patch that makes `after` of `before`; None when `after` has a new `null`, which no patch can say."""
    patch: Object = {name: None for name in before if name not in after}
    for name, value in after.items():
        held = before.get(name, _ABSENT)
        if _same(held, value):
            continue
        if isinstance(held, dict) and isinstance(value, dict):
            if (inner := difference(held, value)) is None:
                return None
            patch[name] = inner
        elif _can_be_said(value):
            patch[name] = value
        else:
            return None
    return patch


def change(before: Mapping[str, Any], data: Mapping[str, Any], keep: Collection[str]) -> Object | None:
    """An event's `data` as a patch on any state that the data `before` was merged into (`schemas.state.merged`).

    Fields of `keep` stand in it as they are. None when a patch cannot say it: the whole data is needed.
    """
    patch: Object = {}
    for name, value in data.items():
        held = before.get(name, _ABSENT)
        if name in keep:
            patch[name] = value
        elif _same(held, value):
            continue
        elif not isinstance(value, dict):
            patch[name] = value
        elif isinstance(held, dict):
            patch[name] = difference(held, value)
            if patch[name] is None:
                return None
        elif held is _ABSENT or not _can_be_said(value):
            # What an older event left in an absent field is not known here: a patch would be merged into it.
            return None
        else:
            patch[name] = value
    return patch


def _can_be_said(value: Any) -> bool:
    """Whether a patch can set this where nothing of it was; lists are set as they are."""
    if not isinstance(value, dict):
        return value is not None
    return all(_can_be_said(inner) for inner in value.values())


def _same(one: Any, other: Any) -> bool:
    """Whether both are the same JSON; `1`, `1.0` and `true` are three things."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
