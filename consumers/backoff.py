"""How long to wait before another attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

BASE_S: Final = 0.5
CAP_S: Final = 30.0

Random = Callable[[], float]
"""Uniform in [0, 1), as `random.random`."""


def full_jitter(attempt: int, random: Random, *, base: float = BASE_S, cap: float = CAP_S) -> float:
    """Seconds to wait after failure number `attempt` (0 the first): uniform below an exponential ceiling.

    Spreads clients that were cut off together evenly (AWS Architecture Blog, "Exponential Backoff And Jitter").
    """
    return random() * min(cap, base * 2.0 ** min(attempt, 32))
