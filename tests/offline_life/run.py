"""Lives, one after the other, each in a directory of its own."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import structlog

from .checks import Figures, check
from .faults import Rates
from .inline_store import inline_store
from .world import World


def workplace() -> Path:
    """A new directory, in memory where that can be had."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="life", dir=memory if memory.is_dir() else None))


async def lived(seed: int, *, days: int = 60, every: int = 1, pace: float = 1.0, rates: Rates | None = None) -> Figures:
    """One life, and that all is well at its end.

    Raises:
        Violation
    """
    directory = workplace()
    # What the hub says of each conflict and each lost line is of no interest by the ten thousand.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    world = World(seed, directory, days=days, every=every, pace=pace, rates=rates)
    try:
        with inline_store():
            try:
                await world.live()
                return await check(world)
            finally:
                await world.close()
    finally:
        structlog.reset_defaults()
        shutil.rmtree(directory)


def life(seed: int, *, days: int = 60, every: int = 1, pace: float = 1.0, rates: Rates | None = None) -> Figures:
    """As `lived`, with a loop of its own."""
    return asyncio.run(lived(seed, days=days, every=every, pace=pace, rates=rates))
