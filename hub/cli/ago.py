"""Times as the options of commands take them: an instant, or how long ago."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from hub.cli.failure import UsageError

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def instant_of(option: str, text: str, now: datetime) -> str:
    """What stands for an instant, like `2h` before `now`, as one; anything else as it is, for the hub to judge.

    Raises:
        UsageError: it is longer ago than can be said.
    """
    text = text.strip()
    number, unit = text[:-1], _UNITS.get(text[-1:])
    if unit is None or not (number.isascii() and number.isdigit()):
        return text
    try:
        moment = now.astimezone(UTC) - timedelta(**{unit: int(number)})
    except (OverflowError, ValueError):
        raise UsageError(f"{option} {text[:20]} is longer ago than there were computers", "Like 2h or 7d") from None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
