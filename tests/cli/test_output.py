"""What commands print, on a terminal and elsewhere."""

from __future__ import annotations

import re
import sys

import pytest

from hub.cli import output
from hub.cli.event_lines import EventPrinter

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

FOUND = {
    "cursor": "c1",
    "sequence": 7,
    "event": {
        "recorded_at": "2026-07-15T01:00:00.000Z",
        "tenant_id": "default",
        "type": "room",
        "action": "status_changed",
        "entity": "room:r1",
        "revision": 2,
        "event_id": "e1",
        "data": {"maintenance_notes": "[red]\x9b31m" + "x" * 300},
    },
}


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on stdout is read by a person, 80 columns wide."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")


def test_cleaned_text_is_one_line_without_control_characters() -> None:
    """Escapes, line breaks and direction marks are replaced, other text stays."""
    assert output.clean("山田\t[bold]\x1b[31m\n\u202ex\u2028") == "山田\ufffd[bold]\ufffd[31m\ufffd\ufffdx\ufffd"
    assert (output.clean(None), output.clean(7)) == ("", "7")


def test_a_table_on_a_terminal_takes_markup_for_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell is data, whatever brackets it has."""
    on_a_terminal(monkeypatch)
    output.table(("name", "count"), [("[red]x[/red]", 1)], right=("count",))

    out = capsys.readouterr().out
    assert "[red]x[/red]" in out
    assert "\t" not in out


def test_an_event_on_a_terminal_is_one_line_of_its_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut, without control characters of its data, and with its markup as text."""
    on_a_terminal(monkeypatch)
    EventPrinter(json=False)(FOUND)

    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "room.status_changed" in out
    assert "\x9b" not in out
    assert 60 < len(_COLOUR.sub("", out).rstrip("\n")) <= 80


def test_an_event_elsewhere_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is cut where a program reads."""
    EventPrinter(json=False)(FOUND)

    fields = capsys.readouterr().out.rstrip("\n").split("\t")
    assert fields[:8] == [
        *("2026-07-15T01:00:00.000Z", "default", "7", "room.status_changed"),
        *("room:r1", "2", "e1", "c1"),
    ]
    assert "x" * 300 in fields[8]


def test_progress_is_told_now_and_then_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    """A line every five seconds, on stderr."""
    with output.Bar("events", 10) as bar:
        for second in range(1, 13):
            bar.at(second, float(second))

    assert capsys.readouterr() == ("", "events: 6 of 10\nevents: 11 of 10\n")
