"""How the demonstration is shown: three columns that move on a terminal, else a line an event."""

from __future__ import annotations

import sys
import time
from typing import Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from hub.cli.output import clean, line
from hub.cli.showcase import RECENT, Showcase

_TOTALS_EVERY_S: Final = 5.0


class View(Protocol):
    """Shows a demonstration while it runs."""

    def arrived(self, system: str, text: str, took_ms: float | None) -> None:
        """A system told of an event."""

    def refresh(self) -> None:
        """Show the present state; called several times a second."""

    def close(self) -> None:
        """Nothing more will come."""


def totals(show: Showcase, seconds: float) -> str:
    """What happened so far, on one line."""
    rate = show.published / seconds if seconds > 0 else 0.0
    return f"{show.published} events published ({rate:.1f}/s), {show.all_received} deliveries in {seconds:.0f} s"


class Columns:
    """The view on a terminal."""

    def __init__(self, show: Showcase) -> None:
        self._show = show
        self._begun = time.monotonic()
        self._live = Live(console=Console(file=sys.stdout), auto_refresh=False, redirect_stderr=True)
        self._live.start()

    def arrived(self, system: str, text: str, took_ms: float | None) -> None:
        """The next refresh shows it."""

    def refresh(self) -> None:
        """Draw."""
        grid = Table.grid(expand=True)
        for _ in self._show.columns:
            grid.add_column(ratio=1)
        grid.add_row(*(self._panel(system) for system in self._show.columns))
        below = Text(f"{totals(self._show, time.monotonic() - self._begun)}. Ctrl-C ends it.", style="bold")
        self._live.update(Group(grid, below), refresh=True)

    def _panel(self, system: str) -> Panel:
        column = self._show.columns[system]
        height = max(3, min(RECENT, self._live.console.height - 14))
        lines = list(column.recent)[-height:]
        lines += [""] * (height - len(lines))
        body = Text("\n".join(clean(text) for text in lines), no_wrap=True, overflow="ellipsis")
        return Panel(body, title=f"[bold]{system}", subtitle=column.summary())

    def close(self) -> None:
        """Leave the last picture standing."""
        self.refresh()
        self._live.stop()


class Lines:
    """The view where nobody sits at a terminal."""

    def __init__(self, show: Showcase) -> None:
        self._show = show
        self._begun = self._said = time.monotonic()

    def arrived(self, system: str, text: str, took_ms: float | None) -> None:
        """Print it."""
        took = "" if took_ms is None else f"  ({took_ms:.1f} ms)"
        line(f"{system:<12}  {clean(text)}{took}")

    def refresh(self) -> None:
        """Print the totals now and then."""
        now = time.monotonic()
        if now - self._said >= _TOTALS_EVERY_S:
            self._said = now
            line(f"{'demo':<12}  {totals(self._show, now - self._begun)}")

    def close(self) -> None:
        """Print what came of it."""
        for system, column in self._show.columns.items():
            line(f"{system:<12}  {column.summary()}")
        line(f"{'demo':<12}  {totals(self._show, time.monotonic() - self._begun)}")
