"""Which coroutine handles which event. Knows nothing of where events come from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from pydantic import TypeAdapter, ValidationError

from schemas.frames import Pattern
from schemas.patterns import matches
from schemas.registry import EVENT_TYPES

log = structlog.get_logger(__name__)

Handler = Callable[..., Awaitable[None]]
HandlerT = TypeVar("HandlerT", bound=Callable[..., Awaitable[Any]])

_PATTERN: TypeAdapter[str] = TypeAdapter(Pattern)


def check_pattern(pattern: str) -> str:
    """The pattern, when it is `type.action`, `type.*` or `*`.

    Raises:
        ValueError: it is not.
    """
    try:
        return _PATTERN.validate_python(pattern, strict=True)
    except ValidationError as error:
        raise ValueError(f"{pattern!r}: a pattern is `type.action`, `type.*` or `*`") from error


class Handlers:
    """A registry of handlers by pattern. A handler gets the typed event of `schemas.registry.read`."""

    def __init__(self) -> None:
        self._registered: list[tuple[str, Handler]] = []
        self._found: dict[tuple[str, str], tuple[Handler, ...]] = {}

    def on(self, pattern: str) -> Callable[[HandlerT], HandlerT]:
        """Register the decorated coroutine function for `type.action`, `type.*` or `*`.

        Raises:
            ValueError: the pattern is malformed.
        """
        check_pattern(pattern)
        if not _known(pattern):
            # Not refused: a newer hub may have types that this release does not know.
            log.warning("handler_pattern_unknown", pattern=pattern)

        def register(handler: HandlerT) -> HandlerT:
            self._registered.append((pattern, handler))
            self._found.clear()
            return handler

        return register

    def find(self, type: str, action: str) -> tuple[Handler, ...]:
        """Every handler whose pattern matches, in the order of registration."""
        key = (type, action)
        if key not in self._found:
            self._found[key] = tuple(handler for pattern, handler in self._registered if matches(pattern, type, action))
        return self._found[key]

    @property
    def patterns(self) -> list[str]:
        """The registered patterns, each once, in the order of registration."""
        return list(dict.fromkeys(pattern for pattern, _ in self._registered))


def _known(pattern: str) -> bool:
    if pattern == "*":
        return True
    name, _, action = pattern.partition(".")
    kind = EVENT_TYPES.get(name)
    return kind is not None and (action == "*" or action in kind.actions)
