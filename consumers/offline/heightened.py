"""The period after a recovery in which the desk is watched more closely (R84). It ends by itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import structlog

from consumers.clock import Clock
from consumers.errors import ConsumerError
from consumers.offline.comparison import Compared, Comparison, Local

log = structlog.get_logger(__name__)

LENGTH: Final = timedelta(minutes=10)
PROBE_S: Final = 1.0
"""How often the line is probed meanwhile."""
COMPARE_S: Final = 60.0
"""How often states are compared meanwhile."""

_VAULT: Final = "heightened_until"


class Heightened:
    """Heightened monitoring of one desk. Its end is kept in the database, so that a restart goes on with it."""

    def __init__(
        self,
        local: Local,
        comparison: Comparison,
        set_probe_interval: Callable[[float | None], None],
        *,
        clock: Clock,
        now: Callable[[], datetime],
        told: Callable[[Compared], None] = lambda compared: None,
    ) -> None:
        """`set_probe_interval` takes seconds, or None for the usual. `told` hears of every comparison."""
        self._local = local
        self._comparison = comparison
        self._set_probe_interval = set_probe_interval
        self._clock = clock
        self._now = now
        self._told = told

    async def begin(self) -> None:
        """A period begins now, or begins anew.

        Raises:
            LocalError: it could not be kept.
        """
        until = (self._now() + LENGTH).isoformat().encode()
        await self._local.call(lambda database: database.put_vault(_VAULT, until))

    async def left_s(self) -> float:
        """Seconds left of the period; 0 when there is none."""
        kept = await self._local.call(lambda database: database.vault(_VAULT))
        try:
            left = datetime.fromisoformat((kept or b"").decode()) - self._now()
        except (ValueError, TypeError):
            return 0.0
        # A clock that was set back must not prolong it.
        return max(0.0, min(left, LENGTH).total_seconds())

    async def run(self) -> None:
        """Watch more closely till the period is over; returns at once where there is none. Cancelled: all as usual."""
        left = await self.left_s()
        if not left:
            return
        end = self._clock.monotonic() + left
        log.info("heightened_monitoring", seconds=left)
        self._set_probe_interval(PROBE_S)
        try:
            while (left := end - self._clock.monotonic()) > 0:
                await self._clock.sleep(min(COMPARE_S, left))
                await self._compare()
        finally:
            self._set_probe_interval(None)
        await self._local.call(lambda database: database.put_vault(_VAULT, None))
        log.info("heightened_monitoring_over")

    async def _compare(self) -> None:
        try:
            compared = await self._comparison.compare()
        except ConsumerError as error:
            # The line may break again: that is another's to notice, and the next look may succeed.
            log.info("comparison_failed", reason=str(error))
            return
        if compared.state in ("repaired", "differs"):
            log.warning("records_differ_after_recovery", state=compared.state, differing=len(compared.differing))
        self._told(compared)
