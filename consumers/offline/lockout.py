"""How long the next PIN has to wait after wrong ones. Pure.

Four wrong PINs in a row cost nothing; from the fifth on the next one has to wait 30 s, 60 s, 120 s … up to an hour.

A wait is served in time that the machine was running, never by the clock on the wall, so setting that back or forward
does nothing: neither a lasting lock-out by mistake nor a way round. Within one boot the time since boot is the witness,
across restarts of the program as well. After a reboot nobody can tell how long the machine was off, so what was left of
the wait when it was last written begins again: for an honest operator at most an hour more, and only after many wrong
PINs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol
from uuid import uuid4

FREE: Final = 5
"""The wrong PIN from which on the next one has to wait."""
FIRST_S: Final = 30.0
LONGEST_S: Final = 3600.0

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Uptime(Protocol):
    """Time that nobody at the desk can set: seconds that never go back within one `boot`."""

    @property
    def boot(self) -> str:
        """Which boot of the machine this is; another one after each reboot."""
        ...

    def seconds(self) -> float:
        """Seconds from an arbitrary start within this boot; time in which the machine slept may count."""
        ...


class SystemUptime:
    """The machine's own. Where it does not tell its boots apart, every start of the program counts as one."""

    def __init__(self) -> None:
        boot, seconds = _since_boot() or (uuid4().hex, time.monotonic)
        self.boot: str = boot
        self._seconds = seconds

    def seconds(self) -> float:
        """Seconds since the boot."""
        return self._seconds()


def _since_boot() -> tuple[str, Callable[[], float]] | None:
    clock: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    if clock is None:
        return None
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
        time.clock_gettime(clock)
    except (OSError, UnicodeError):
        return None
    return (boot, lambda: time.clock_gettime(clock)) if boot else None


class Attempts(NamedTuple):
    """Wrong PINs in a row, and the wait that follows from them: `wait_s` from `at` on, in seconds of boot `boot`."""

    wrong: int = 0
    wait_s: float = 0.0
    boot: str = ""
    at: float = 0.0


def delay_s(wrong: int) -> float:
    """The wait after so many wrong PINs in a row."""
    return 0.0 if wrong < FREE else min(FIRST_S * 2.0 ** min(wrong - FREE, 32), LONGEST_S)


def left_s(attempts: Attempts, boot: str, at: float) -> float:
    """What is left of the wait at `at` of boot `boot`; 0: the next PIN may be tried."""
    served = at - attempts.at if boot == attempts.boot else 0.0
    return max(0.0, attempts.wait_s - max(0.0, served))


def counted(attempts: Attempts, boot: str, at: float) -> Attempts:
    """With one more wrong PIN. To be kept *before* a PIN is checked: a right one takes it back."""
    wrong = attempts.wrong + 1
    return Attempts(wrong, delay_s(wrong), boot, at)


def served(attempts: Attempts, boot: str, at: float) -> Attempts:
    """The same wait, counted from `at` on: what a reboot cannot lengthen again, once it is kept."""
    return attempts._replace(wait_s=left_s(attempts, boot, at), boot=boot, at=at)
