"""Reports as text and as CSV: whole, safe against what labels hold, and readable whoever generated them."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import daily, foreign, foreign_reports, hostile_reports, monthly, samples, weekly

from hub.core.report_csv import COLUMNS, as_csv, safe
from hub.core.report_html import as_html
from hub.core.report_numbers import clean
from hub.core.report_text import as_text as text_of
from hub.core.report_text import bar_of, columns_of, cut, sparkline
from schemas.registry import EVENT_TYPES, validate_data
from schemas.report import detail_of

WIDTHS = (40, 46, 60, 72, 80, 120, 200)
VOID = {"meta"}
ANSI = re.compile(r"\x1b\[[0-9;]+m")


def lines_of(text: str) -> list[str]:
    """The lines of a rendered text, which ends with one."""
    assert text.endswith("\n")
    return text[:-1].split("\n")


def line_with(text: str, start: str) -> str:
    """The only line that begins so."""
    (found,) = (line for line in lines_of(text) if line.startswith(start))
    return found


def drawn_columns(text: str) -> int:
    """What a terminal makes of it, counted apart from the code under test."""
    wide = sum(unicodedata.east_asian_width(one) in ("W", "F") for one in text)
    return len(text) + wide - sum(unicodedata.category(one) in ("Mn", "Me", "Cf") for one in text)


def tables_of(text: str) -> list[list[list[str]]]:
    """The tables of a CSV, which empty lines part."""
    tables: list[list[list[str]]] = [[]]
    for row in csv.reader(io.StringIO(text, newline=""), strict=True):
        if row:
            tables[-1].append(row)
        else:
            tables.append([])
    return tables


def test_the_samples_are_reports() -> None:
    """What is rendered here could be published, and all but the foreign one has the hub's own detail."""
    for data in samples():
        assert validate_data(EVENT_TYPES["analytics"], 1, data) == []
    for data in (daily(), weekly(), monthly()):
        assert detail_of(data["detailed_data"]).days


# Text


def test_text_says_what_the_report_has() -> None:
    """Period, stage, the figures with their units, what was picked up and what changed."""
    text = text_of(monthly())
    first = lines_of(text)[0]
    assert first.startswith("Monthly report  2026-10-01 – 2026-10-31 (31 days)")
    assert first.endswith("訂正 Revised")
    assert re.search(r"Total revenue +EUR 341,299\.95  ", text)
    for figure in (
        r"Occupancy +70\.8%",
        r"ADR +EUR 176\.02",
        r"RevPAR +EUR 124\.56",
        r"Arrivals +850",
        r"Departures +819",
        r"No-shows +31",
        r"Cancellations +93",
        r"Lead time +23\.4 days",
        r"Bookings +1,302 +1,240 +\+5\.0%",
        r"Nights +2,945 +3,069 +-4\.0%",
        r"Total revenue +EUR 380,155\.50 → EUR 341,299\.95 +-10\.2%",
        r"Occupancy +71\.2% → 70\.8% +-0\.5 pp",
        r"ADR +– → EUR 176\.02 +–",
        r"- 3 events came late\.",
        r"- Two rooms are out of order",
    ):
        assert re.search(figure, text), figure


@pytest.mark.parametrize(
    ("data", "stage"), [(daily(), "速報 Provisional"), (weekly(), "確定 Final"), (monthly(), "訂正 Revised")]
)
def test_every_form_names_the_stage(data: dict[str, Any], stage: str) -> None:
    """In Japanese, marked as such on the page, and in English."""
    japanese, english = stage.split()
    assert lines_of(text_of(data))[0].endswith(stage)
    page = as_html([data])
    assert f'<span lang="ja">{japanese}</span> {english}</strong>' in page
    assert tables_of(as_csv([data]))[0][1][COLUMNS.index("stage")] == english.lower()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("data", samples())
def test_text_keeps_to_its_width(data: dict[str, Any], width: int) -> None:
    """No line is wider, the rule takes all of it, and no figure is cut, however narrow it is."""
    text = text_of(data, width=width)
    assert max(drawn_columns(line) for line in lines_of(text)) == width
    assert f"{data['total_revenue']:,}".removesuffix(".0") in text
    coloured = text_of(data, width=width, colour=True)
    assert "\x1b" in coloured
    assert [line.rstrip() for line in lines_of(ANSI.sub("", coloured))] == lines_of(text)


def test_what_a_sparkline_reaches_stands_beside_it_or_below() -> None:
    """A week with its extent fits on any line; a month on a narrow one does not."""
    assert re.search(r"^Occupancy +[▁-█]+  46\.2% – 100\.0%$", text_of(monthly()), re.MULTILINE)
    assert re.search(r"^Occupancy +[▁-█]+\n +46\.2% – 100\.0%$", text_of(monthly(), width=50), re.MULTILINE)


def test_a_house_without_rooms_has_no_occupancy_by_day() -> None:
    """Nobody can say which part of nothing was sold: neither the text nor the page draws it."""
    data = weekly()
    for day in data["detailed_data"]["days"]:
        day["available_room_nights"] = 0
    assert not re.search("^Occupancy +[▁·]", text_of(data, width=40), re.MULTILINE)
    page = as_html([data])
    assert "Revenue by day" in page
    assert "Occupancy by day" not in page
    for day in data["detailed_data"]["days"]:
        day |= {"available_room_nights": 78, "sold_room_nights": 0}
    assert "Occupancy by day" in as_html([data])
    assert re.search("^Occupancy +▁▁▁ ▁▁▁", text_of(data), re.MULTILINE)


def test_a_terminal_is_shown_the_first_changes() -> None:
    """And how many more there are; the page has all."""
    data = monthly()
    data["detailed_data"]["changes"] = [{"figure": f"f{at}", "before": 1, "after": 2} for at in range(25)]
    text = text_of(data)
    assert re.search(r"^f19 .*\nand 5 more$", text, re.MULTILINE)
    assert "f20" not in text
    assert ">f24<" in as_html([data])


def test_the_narrowest_text_is_forty_columns() -> None:
    """Less room than that is not worth cutting figures for."""
    assert text_of(weekly(), width=1) == text_of(weekly(), width=40)


def test_columns_stay_aligned_below_wide_characters() -> None:
    """A label in kanji takes two columns a character, and the numbers beside it end where the others do."""
    text = text_of(weekly(), width=100)
    ends = {drawn_columns(line_with(text, label)) for label in ("twin", "和室（露天風呂付き）", "single")}
    assert ends == {100}
    starts = {drawn_columns(re.split("[█▏▎▍▌▋▊▉]", line_with(text, label))[0]) for label in ("twin ", "和室", "single")}
    assert len(starts) == 1


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("twin", 4, "twin"),
        ("twins", 4, "twi…"),
        ("和室", 4, "和室"),
        ("和室x", 4, "和…"),
        ("和室", 2, "…"),
        ("cafe\u0301", 4, "cafe\u0301"),
        ("x", 0, ""),
    ],
)
def test_long_text_is_cut_by_columns(text: str, width: int, expected: str) -> None:
    """With … in place of what does not fit, never half of a wide character."""
    assert cut(text, width) == expected


@given(st.text(), st.integers(0, 30))
def test_what_is_cut_fits(text: str, width: int) -> None:
    """Whatever it holds."""
    assert columns_of(cut(text, width)) <= width


def test_marks_without_a_width_are_cut_too() -> None:
    """Or one label could bring any number of them onto a line."""
    assert cut("\u0301" * 500, 10) == "\u0301" * 39 + "…"


def test_a_sparkline_begins_at_nothing() -> None:
    """Half of the highest is half as high, a missing value is no low one, and a fixed top is not stretched."""
    one, two, none = Decimal(1), Decimal(2), Decimal(0)
    assert sparkline([none, one, two, None], 4, None) == "▁▅█·"
    assert sparkline([one, one], 2, two) == "▅▅"
    assert sparkline([one, two], 40, None) == "▅▅▅ ███"
    assert sparkline([Decimal(-2), none, two], 3, None) == "▁▅█"
    assert sparkline([none, none], 2, None) == "▁▁"


def test_a_year_fits_on_a_line() -> None:
    """More days than columns are shown by the means of neighbours, so that no day is left out."""
    year = [Decimal(2 * (at % 2) + at // 183) for at in range(366)]
    assert sparkline(year, 61, Decimal(4)) == "▃" * 30 + "▄" + "▅" * 30


@pytest.mark.parametrize(
    ("length", "bar"), [("1", "████"), ("0.5", "██"), ("0.28125", "█▏"), ("0.0001", "▏"), ("0", ""), ("-1", "")]
)
def test_bars_are_drawn_to_an_eighth(length: str, bar: str) -> None:
    """A little shows as a little, nothing does not show."""
    assert bar_of(Decimal(length), 4) == bar


@given(hostile_reports(), st.sampled_from(WIDTHS), st.booleans())
def test_text_acts_on_no_terminal(data: dict[str, Any], width: int, colour: bool) -> None:
    """No control character of a label gets through, no line is too wide, whatever the labels hold."""
    text = text_of(data, width=width, colour=colour)
    plain = ANSI.sub("", text) if colour else text
    for line in lines_of(plain):
        assert not any(unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") for one in line)
        assert not set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u061c") & set(line)
        assert drawn_columns(line) <= width


# CSV


def test_csv_has_a_row_a_report_in_the_same_columns() -> None:
    """Exact numbers, nothing where there is nothing, lines ended as RFC 4180 says, and no mark before the header."""
    text = as_csv(samples())
    (table,) = tables_of(text)
    assert tuple(table[0]) == COLUMNS
    assert [row[COLUMNS.index("period_start")] for row in table[1:]] == [one["period_start"] for one in samples()]
    row = dict(zip(COLUMNS, table[3], strict=True))
    assert (row["total_revenue"], row["adr"], row["occupancy_rate"]) == ("341299.95", "176.024", "0.7076")
    assert (row["pickup_period_nights"], row["pickup_previous_revenue"], row["late_events"]) == ("2945", "375100", "3")
    other = dict(zip(COLUMNS, table[4], strict=True))
    assert (other["total_revenue"], other["adr"], other["stage"]) == ("1286400", "", "")
    assert text.count("\n") == text.count("\r\n") == 5
    assert text.startswith("report_type,")


def test_csv_of_one_report_has_its_tables() -> None:
    """Days, other revenue, origins, room types, changes and notes, below empty lines; none for what there is not."""
    data = monthly()
    detail = data["detailed_data"]
    tables = tables_of(as_csv([data]))
    assert [table[0][0] for table in tables[1:]] == ["date", "category", "origin", "room_type", "figure", "note"]
    assert [len(table) - 1 for table in tables] == [1, 31, 4, 6, 4, 4, 2]
    assert sum(Decimal(row[1]) for row in tables[1][1:]) == Decimal(str(data["total_revenue"]))
    assert tables[4][2] == ["和室（露天風呂付き）", "461", "81317.79"]
    assert tables[5][1] == ["total_revenue", "380155.5", "341299.95"]
    assert tables[6][1] == detail["notes"][:1]
    assert len(tables_of(as_csv([foreign()]))) == 1
    assert tables_of(as_csv([])) == [[list(COLUMNS)]]


@given(hostile_reports())
def test_csv_reads_back_and_runs_nothing(data: dict[str, Any]) -> None:
    """What a reader gets is the cleaned label, with an apostrophe before what a spreadsheet would run."""
    tables = {table[0][0]: table[1:] for table in tables_of(as_csv([data]))}
    shares = data["detailed_data"]["by_origin"]
    expected = [[safe(clean(one["origin"])), safe(clean(one["channel"]))] for one in shares]
    assert [row[:2] for row in tables["origin"]] == expected
    for row in (row for table in tables.values() for row in table):
        for cell in row:
            assert not cell.lstrip().startswith(("=", "+", "@", "＝", "＋", "－", "＠"))
            assert not cell.lstrip().startswith("-") or re.fullmatch(r"-[0-9.]+", cell)


@pytest.mark.parametrize("label", ["=1", "+1", "-1", "@x", "\t=1", "\r", " =1", "\u3000＝1", "\t"])
def test_formulas_are_quoted(label: str) -> None:
    """A label that a spreadsheet would run begins with an apostrophe, also where blanks hide it."""
    assert safe(label) == f"'{label}"
    assert safe(f"a{label}") == f"a{label}"


# What other generators write


@pytest.mark.parametrize("detail", [foreign()["detailed_data"], {}, {"own": {"form": 1}}, None, [], "text"])
def test_a_foreign_report_has_its_top_level_figures(detail: Any) -> None:
    """A detail of another shape, or none, hides nothing of what every report has; what is left out is said."""
    data = foreign() | {"detailed_data": detail}
    for shown in (text_of(data), as_html([data])):
        for figure in ("1,286,400", "87.5%", "163", "1.4", "night-audit", "2026-07-14"):
            assert figure in shown
        assert "18,342" not in shown
        assert ("in a form of its own" in shown) == (isinstance(detail, dict) and bool(detail))
    assert "1286400" in as_csv([data])


@given(foreign_reports())
def test_nothing_in_a_report_makes_text_and_csv_fail(data: dict[str, Any]) -> None:
    """Fields of any shape are shown, left out or dashed, never raised over."""
    for line in lines_of(text_of(data, width=80)):
        assert drawn_columns(line) <= 80
    assert len(tables_of(as_csv([data, {}]))[0]) == 3


def test_nothing_at_all_is_a_report_without_figures() -> None:
    """Dashes stand where figures would."""
    assert re.search(r"Total revenue +–", text_of({}))
