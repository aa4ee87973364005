"""Reports as text, CSV and a page: whole, safe against what labels hold, and readable whoever generated them."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator
from copy import deepcopy
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import daily, foreign, monthly, samples, weekly

from hub.core.report_csv import COLUMNS, as_csv, safe
from hub.core.report_html import as_html
from hub.core.report_numbers import against, amount, clean, number, parts, points
from hub.core.report_plot import short, ticks
from hub.core.report_text import as_text as text_of
from hub.core.report_text import bar_of, columns_of, cut, sparkline
from schemas.registry import EVENT_TYPES, validate_data
from schemas.report import Share, detail_of

WIDTHS = (40, 46, 60, 72, 80, 120, 200)
VOID = {"meta"}
ANSI = re.compile(r"\x1b\[[0-9;]+m")

hostile = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            "</style></title><img src=x onerror=alert(1)>",
            "\" onload='x' data=\"",
            '=HYPERLINK("https://evil.test";"x")',
            "+1",
            "-2+3",
            "@SUM(A1)",
            "\t=1",
            "\r=1",
            " =1",
            "＝1",
            "\x1b]0;owned\x07\x1b[2J",
            "a\r\nb\u2028c\u202ed",
            'comma, "quote"\nline',
            "和室（露天風呂付き）" * 6,
            "e\u0301" * 40,
            "\u0301" * 500,
            "👩‍👩‍👧 suite",
            "",
        ]
    ),
)


@st.composite
def hostile_reports(draw: st.DrawFn) -> dict[str, Any]:
    """A report with every text that others choose replaced."""
    data: dict[str, Any] = deepcopy(draw(st.sampled_from(samples()[:3])))
    detail = data["detailed_data"]
    for share in detail["by_origin"]:
        share["origin"], share["channel"] = draw(hostile), draw(hostile)
    for share in detail["by_room_type"]:
        share["room_type"] = draw(hostile)
    detail["other_revenue_by_category"] = {draw(hostile): 1.5, draw(hostile): -20}
    detail["notes"] = [draw(hostile)]
    detail["changes"] = [{"figure": draw(hostile), "before": 1, "after": 2.5}]
    detail["as_of"] = draw(hostile)
    for name in ("report_type", "generated_by_system", "generated_at", "currency", "period_end"):
        if draw(st.booleans()):
            data[name] = draw(hostile)
    return data


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just("2026-10-01"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def foreign_reports(draw: st.DrawFn) -> dict[str, Any]:
    """A report with anything in place of some of its fields, those of the detail among them."""
    data: dict[str, Any] = deepcopy(draw(st.sampled_from(samples())))
    for fields in (data, data["detailed_data"]):
        for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=3)):
            fields[name] = draw(json_values)
            if draw(st.booleans()):
                del fields[name]
        if not isinstance(data.get("detailed_data"), dict):
            break
    return data


class Page(HTMLParser):
    """What a page holds; raises where its tags do not balance."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.texts_of: dict[str, list[str]] = {}
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        self.texts_of.setdefault(self.open[-1] if self.open else "", []).append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each such element."""
        return [attributes for name, attributes in self.tags if name == tag]


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
    """Whatever it holds; marks without a width do not pile up without end."""
    assert columns_of(cut(text, width)) <= width
    assert len(cut(text, width)) <= 4 * width


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


# Page


@pytest.mark.parametrize("reports", [[], *([one] for one in samples()), samples()])
def test_a_page_is_whole_and_needs_nothing_else(reports: list[dict[str, Any]]) -> None:
    """Tags balance, ids are unique and found, and nothing is loaded from anywhere."""
    text = as_html(reports, title="Ryokan & Co")
    page = Page(text)
    assert page.texts_of["h1"] == ["Ryokan & Co"]
    policy = next(one for one in page.named("meta") if one.get("http-equiv") == "Content-Security-Policy")
    content = policy["content"] or ""
    assert content.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        assert not {"src", "srcset", "xlink:href", "action"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
        for wanted in (attributes.get("aria-labelledby") or "").split():
            assert wanted in ids
        if "href" in attributes:
            assert tag == "a"
            assert (attributes["href"] or "").removeprefix("#") in ids
    assert "url(" not in text
    assert "@import" not in text
    assert "http://" not in text
    assert "https://" not in text
    assert len(page.named("section")) == len(reports)
    assert bool(page.named("nav")) == (len(reports) > 1)


def test_a_page_shows_every_day_as_a_bar_a_dot_and_a_row() -> None:
    """What the plot has is also there to be heard, hovered over and read as a table."""
    page = Page(as_html([weekly()]))
    classes = [attributes.get("class") for _, attributes in page.tags]
    assert classes.count("bar") == 7
    dots = next(attributes["d"] for _, attributes in page.tags if attributes.get("class") == "dots")
    assert (dots or "").count("M") == 7
    titles = page.texts_of["title"]
    assert titles.count("Sat 2026-10-10: JPY 1,664,910, 100.0% occupied") == 2
    assert any(
        text.startswith("Revenue from 2026-10-04 to 2026-10-10: from JPY 640,110") for text in page.texts_of["desc"]
    )
    assert {"1,664,910", "100.0%"} <= set(page.texts_of["td"])
    bars = [attributes for _, attributes in page.tags if attributes.get("class") == "bar"]
    heights = [float(one["height"] or 0) for one in bars]
    revenue = [day["total_revenue"] for day in weekly()["detailed_data"]["days"]]
    assert heights == pytest.approx([100 * one / 2_000_000 for one in revenue], abs=0.01)
    assert not Page(as_html([daily()])).named("figure")


def test_a_day_without_rooms_breaks_the_line() -> None:
    """No occupancy is not one of nothing, and a day's refunds hang below the zero line."""
    data = weekly()
    data["detailed_data"]["days"][2]["available_room_nights"] = 0
    data["detailed_data"]["days"][3]["total_revenue"] = -500_000
    page = Page(as_html([data]))
    line = next(attributes["d"] for _, attributes in page.tags if attributes.get("class") == "line")
    assert re.sub("[^ML]", "", line or "") == "MLMLLL"
    bars = [attributes for _, attributes in page.tags if attributes.get("class") == "bar"]
    assert bars[3]["y"] == "66.67"
    assert bars[3]["height"] == "16.67"


def test_japanese_words_are_marked() -> None:
    """So that a reader says them and a browser draws them as Japanese."""
    page = as_html([weekly()])
    assert '<bdi lang="ja">和室（露天風呂付き）</bdi>' in page
    assert "<bdi>twin</bdi>" in page


@given(hostile_reports(), hostile)
def test_labels_are_text_on_a_page(data: dict[str, Any], title: str) -> None:
    """Whatever they hold, the page has the tags of the page with harmless labels, and the labels as text."""
    calm = deepcopy(data)
    detail = calm["detailed_data"]
    for share in (*detail["by_origin"], *detail["by_room_type"]):
        share.update({name: "x" for name in ("origin", "channel", "room_type") if name in share})
    page = Page(as_html([data], title=title))
    calm_page = Page(as_html([calm], title="x"))
    assert [tag for tag, _ in page.tags if tag != "small"] == [tag for tag, _ in calm_page.tags if tag != "small"]
    shown = {text.strip() for text in page.texts_of["bdi"]}
    for share in data["detailed_data"]["by_room_type"]:
        assert (clean(share["room_type"]) or "not known") in shown
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]", "".join(page.texts))


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
def test_nothing_in_a_report_makes_rendering_fail(data: dict[str, Any]) -> None:
    """Fields of any shape are shown, left out or dashed, never raised over."""
    for line in lines_of(text_of(data, width=80)):
        assert drawn_columns(line) <= 80
    Page(as_html([data, {}]))
    assert len(tables_of(as_csv([data, {}]))[0]) == 3


def test_nothing_at_all_is_a_report_without_figures() -> None:
    """Dashes stand where figures would."""
    assert re.search(r"Total revenue +–", text_of({}))
    assert "<dd>–</dd>" in as_html([{}])


# Numbers


@pytest.mark.parametrize(
    ("value", "currency", "expected"),
    [
        ("1234567.5", "JPY", "1,234,568"),
        ("0.5", "JPY", "1"),
        ("-0.4", "JPY", "0"),
        ("1234567.5", "EUR", "1,234,567.50"),
        ("-1234.005", "EUR", "-1,234.01"),
        ("1.5", "KWD", "1.500"),
        ("12", "", "12"),
        ("12.5", "", "12.50"),
    ],
)
def test_amounts_have_the_decimals_of_their_currency(value: str, currency: str, expected: str) -> None:
    """Yen have none, dinars three, rounded half away from zero."""
    assert amount(Decimal(value), currency) == expected


@pytest.mark.parametrize("value", [True, None, "1", float("nan"), float("inf"), 10**18, [], 1e300])
def test_what_is_no_number_is_none(value: Any) -> None:
    """A flag is no figure, neither is what no hotel could count."""
    assert number(value) is None


@pytest.mark.parametrize(
    ("after", "before", "expected"),
    [(110, 100, "+10.0%"), (90, 100, "-10.0%"), (100, 100, "0.0%"), (5, 0, "–"), (None, 5, "–"), (10**9, 1, "–")],
)
def test_differences_have_a_sign(after: Any, before: Any, expected: str) -> None:
    """And are not said against nothing."""
    assert against(number(after), number(before)) == expected


def test_fractions_differ_by_points() -> None:
    """From 50 to 55 percent is five points, not ten percent."""
    assert points(Decimal("0.55"), Decimal("0.5")) == "+5.0 pp"
    assert points(Decimal("0.45"), Decimal("0.5")) == "-5.0 pp"


def shares(*revenues: int) -> Iterator[Share]:
    """One a revenue."""
    return (Share(room_type=f"r{at}", nights=at, revenue=Decimal(one)) for at, one in enumerate(revenues))


def test_small_parts_are_shown_together() -> None:
    """Twelve rows at most, the biggest first, and nothing of the whole is lost."""
    rows = parts(shares(*range(1, 31)))
    assert len(rows) == 12
    assert (rows[0].label, rows[-1].label) == ("r29", "19 others")
    assert sum(row.revenue for row in rows) == sum(range(1, 31))
    assert sum(row.of_all or 0 for row in rows) == pytest.approx(1)
    assert [row.label for row in parts(shares(*range(12)))] == [f"r{at}" for at in reversed(range(12))]


def test_shares_are_not_said_where_a_part_is_below_nothing() -> None:
    """Of 100 and -50, the first is not 200 percent of anything."""
    assert [row.of_all for row in parts(shares(100, -50))] == [None, None]


@given(st.decimals(-(10**15), 0, places=2), st.decimals(0, 10**15, places=2))
def test_an_axis_reaches_over_what_it_shows(low: Decimal, high: Decimal) -> None:
    """By a few round numbers, one of them nothing."""
    scale = ticks(low, high)
    assert scale[0] <= low
    assert scale[-1] >= high
    assert 0 in scale
    assert 2 <= len(scale) <= 7
    assert all(len(short(tick)) <= 6 for tick in scale)


@pytest.mark.parametrize(("value", "text"), [("1200000", "1.2M"), ("500000", "500k"), ("0", "0"), ("-2500", "-2.5k")])
def test_axis_labels_are_short(value: str, text: str) -> None:
    """Thousands and millions by their letters."""
    assert short(Decimal(value)) == text
