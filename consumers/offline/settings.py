"""The desk's settings, from the environment (R63). Each says its unit, its default and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from consumers.errors import ConsumerError

_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})


class InvalidSetting(ConsumerError):
    """A setting cannot be used; says which one, and what would do."""

    def __init__(self, name: str, value: str, wanted: str) -> None:
        super().__init__(f"{name}={value!r}: must be {wanted}")
        self.name = name
        self.value = value


def _default_path() -> Path:
    return Path.home() / ".hotel-desk" / "desk.db"


@dataclass(frozen=True, slots=True)
class DeskSettings:
    """What an installation may choose."""

    sync_interval_minutes: float = 5.0
    """SYNC_INTERVAL_MINUTES, minutes, default 5, from 0.1 to 1440: the longest time between two syncs while the hub is
    reached. Operations, notices and live events are synced when they come; this finds what they missed."""
    max_retry_count: int = 3
    """MAX_RETRY_COUNT, attempts after the first, default 3, from 0 to 20: how often an item or a sync that the hub
    could not take just then is tried again by itself. Being offline counts for nothing."""
    offline_mode_enabled: bool = True
    """OFFLINE_MODE_ENABLED, true or false, default true: whether the desk may work while the hub is not reached. Where
    it may not, operations are refused then, and what was kept before still waits to be sent."""
    local_db_path: Path = field(default_factory=_default_path)
    """LOCAL_DB_PATH, a file, default `~/.hotel-desk/desk.db`: the desk's database. It belongs on a local disk: what is
    on a network drive is gone with the network."""

    def __post_init__(self) -> None:
        """Raises `InvalidSetting`."""
        if not 0.1 <= self.sync_interval_minutes <= 1440:
            raise InvalidSetting(
                "SYNC_INTERVAL_MINUTES", str(self.sync_interval_minutes), "a number of minutes from 0.1 to 1440"
            )
        if not 0 <= self.max_retry_count <= 20:
            raise InvalidSetting("MAX_RETRY_COUNT", str(self.max_retry_count), "a whole number from 0 to 20")

    @property
    def sync_interval_s(self) -> float:
        """The interval in seconds."""
        return self.sync_interval_minutes * 60.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """What the environment says; an empty variable is none.

        Raises:
            InvalidSetting: a variable has a value that cannot be.
        """
        given: dict[str, Any] = {}
        for name, read, wanted in _VARIABLES:
            if value := environment.get(name, "").strip():
                try:
                    given[name.lower()] = read(value)
                except ValueError as error:
                    raise InvalidSetting(name, value, wanted) from error
        return cls(**given)


def _truth(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(text)


_VARIABLES: Final[tuple[tuple[str, Callable[[str], Any], str], ...]] = (
    ("SYNC_INTERVAL_MINUTES", float, "a number of minutes from 0.1 to 1440"),
    ("MAX_RETRY_COUNT", int, "a whole number from 0 to 20"),
    ("OFFLINE_MODE_ENABLED", _truth, "true or false"),
    ("LOCAL_DB_PATH", lambda text: Path(text).expanduser(), "a file"),
)
