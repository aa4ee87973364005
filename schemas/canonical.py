"""Canonical JSON (RFC 8785): the one spelling of a value that its checksum is taken of."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

import orjson
import rfc8785

_EXACT: Final = 2**53
_PLAIN: Final = (str, bool, type(None))


def canonical(value: Any) -> bytes:
    """The canonical JSON of a value.

    Raises:
        ValueError: it has no canonical JSON: a number beyond what a double holds exactly, NaN, a lone surrogate.
    """
    if _plain(value):
        try:
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError as error:
            raise ValueError(str(error)) from None
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error) or type(error).__name__) from None


def _plain(value: Any) -> bool:
    """Whether orjson spells it as RFC 8785 does: no floats, and no keys that sort otherwise in UTF-16."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is int:
        return bool(-_EXACT < value < _EXACT)
    if kind is dict:
        return all(type(key) is str and key.isascii() and _plain(inner) for key, inner in value.items())
    if kind is list:
        return all(map(_plain, value))
    return False


def checksum(value: Any) -> str:
    """SHA-256 of the canonical JSON, in hex (R78).

    Raises:
        ValueError: as `canonical`.
    """
    return sha256(canonical(value)).hexdigest()
