"""JSON as the hub accepts it: what RFC 8259 leaves open is refused, with the path of the offending value.

Refused: duplicate keys, NaN and infinities (`1e999` too), numbers of more than 15 digits, lone surrogates, NUL,
nesting past 32, bytes that are not UTF-8. The standard parser keeps going; each refused value stands in the tree as a
`Refused`, so that one bad event in a batch does not take the others with it.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

from schemas.errors import MAX_FIELD_ERRORS, FieldError, Problem

MAX_DEPTH: Final = 32
MAX_DIGITS: Final = 15

_ODD_STRING = re.compile(rb"\\u(?:[dD][89a-fA-F]|0000)")
_DIGITS = re.compile(r"[eE].*|\D")


_LOSES: Final = f"a number of more than {MAX_DIGITS} digits loses precision; send fewer, or a string where one is taken"


class Refused:
    """Stands in a parsed tree where a value was refused."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


def _number(text: str) -> float | Refused:
    if len(text) > MAX_DIGITS and len(_DIGITS.sub("", text).lstrip("0")) > MAX_DIGITS:
        return Refused(_LOSES)
    value = float(text)
    if value == 0 and _DIGITS.sub("", text).strip("0"):
        return Refused("the number is too small for a double")
    return value if math.isfinite(value) else Refused("the number is too large for a double")


def _integer(text: str) -> int | Refused:
    if len(text.lstrip("-")) > MAX_DIGITS:
        return Refused(_LOSES)
    return int(text)


def _constant(text: str) -> Refused:
    return Refused(f"{text} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                tree[key] = Refused("the key stands twice in its object")
            seen.add(key)
    return tree


_decode = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_number, parse_int=_integer, parse_constant=_constant
).decode


class Parsed:
    """A parsed body. `refusals(subtree)` must be asked, and be empty, before a subtree is used."""

    __slots__ = ("_odd", "tree")

    def __init__(self, tree: Any, odd: bool) -> None:
        self.tree = tree
        self._odd = odd

    def refusals(self, subtree: Any, path: str = "", depth: int = 0) -> list[FieldError]:
        """The refused values in `subtree`, which stands at `path`, `depth` levels down the body; the first hundred."""
        found: list[FieldError] = []
        _walk(subtree, path, MAX_DEPTH - depth, self._odd, found)
        return found[:MAX_FIELD_ERRORS]


def parse(raw: bytes | bytearray | str) -> Parsed:
    """Parse `raw`.

    Raises:
        Problem: `invalid_json`, when there is no tree to speak of.
    """
    try:
        data = raw.encode() if isinstance(raw, str) else raw
        text = raw if isinstance(raw, str) else raw.decode()
        return Parsed(_decode(text), _ODD_STRING.search(data) is not None)
    except UnicodeError as error:
        raise Problem("invalid_json", "the text is not UTF-8") from error
    except RecursionError as error:
        raise Problem("invalid_json", f"nested deeper than {MAX_DEPTH}") from error
    except ValueError as error:
        raise Problem("invalid_json", str(error)) from error


def loads(raw: bytes | bytearray | str) -> Any:
    """Parse `raw` and refuse it whole if any value in it is refused.

    Raises:
        Problem: `invalid_json`, with the paths of the refused values.
    """
    parsed = parse(raw)
    if errors := parsed.refusals(parsed.tree):
        raise Problem("invalid_json", f"{errors[0].path}: {errors[0].message}", errors)
    return parsed.tree


def _walk(node: Any, path: str, depth: int, odd: bool, found: list[FieldError]) -> None:
    if len(found) >= MAX_FIELD_ERRORS:
        return
    kind = type(node)
    if kind is dict:
        if depth <= 0:
            found.append(FieldError(path, f"nested deeper than {MAX_DEPTH}"))
            return
        for key, value in node.items():
            child = type(value)
            if odd or child is dict or child is list or child is Refused:
                step = _printable(key) if odd else key
                below = f"{path}.{step}" if path else step
                if odd:
                    _check_text(key, below, found)
                _walk(value, below, depth - 1, odd, found)
    elif kind is list:
        if depth <= 0:
            found.append(FieldError(path, f"nested deeper than {MAX_DEPTH}"))
            return
        for index, value in enumerate(node):
            child = type(value)
            if child is dict or child is list or child is Refused or (odd and child is str):
                _walk(value, f"{path}.{index}" if path else str(index), depth - 1, odd, found)
    elif kind is Refused:
        found.append(FieldError(path, node.reason))
    elif kind is str and odd:
        _check_text(node, path, found)


def _check_text(text: str, path: str, found: list[FieldError]) -> None:
    if "\0" in text:
        found.append(FieldError(path, "NUL is not allowed in text"))
    if _has_lone_surrogate(text):
        found.append(FieldError(path, "a lone surrogate is not a character"))


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _printable(key: str) -> str:
    """`key` as an answer can name it."""
    return ascii(key)[1:-1] if "\0" in key or _has_lone_surrogate(key) else key
