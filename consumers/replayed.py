"""Whether the event a handler is called with is a replay's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_replay: ContextVar[str | None] = ContextVar("hub_replay", default=None)


def replay_id() -> str | None:
    """Within a handler: the id of the replay that brought the event; None when it came for the first time, or again
    for any other reason."""
    return _replay.get()


@contextmanager
def replaying(replay: str | None) -> Iterator[None]:
    """Handlers called within the block are handling events of this replay."""
    token = _replay.set(replay)
    try:
        yield
    finally:
        _replay.reset(token)
