"""Patterns: `type.action`, `type.*` or `*`."""

from __future__ import annotations

from collections.abc import Iterable


def matches(pattern: str, type: str, action: str) -> bool:
    """Whether an event of this type and action falls under the pattern."""
    if pattern == "*":
        return True
    left, _, right = pattern.partition(".")
    return left == type and right in ("*", action)


def covers(wide: str, narrow: str) -> bool:
    """Whether every event under `narrow` falls under `wide`."""
    if wide in ("*", narrow):
        return True
    left, _, right = wide.partition(".")
    return right == "*" and narrow.partition(".")[0] == left


def covered(wide: Iterable[str], narrow: str) -> bool:
    """Whether one of `wide` covers `narrow`."""
    return any(covers(pattern, narrow) for pattern in wide)
