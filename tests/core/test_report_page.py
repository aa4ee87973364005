"""Reports as a page: whole, on its own, readable by eye and ear, and safe against what labels hold."""

from __future__ import annotations

import re
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import daily, foreign_reports, hostile, hostile_reports, samples, weekly

from hub.core.report_html import as_html
from hub.core.report_numbers import clean
from hub.core.report_plot import short, ticks

VOID = {"meta"}


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

    @property
    def attributes(self) -> set[str]:
        """The names of all attributes."""
        return {name for _, attributes in self.tags for name in attributes}


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
    """Whatever they hold, the page has no other tags and attributes than with harmless ones, and the labels as text."""
    page, calm = Page(as_html([data], title=title)), Page(as_html(samples()))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in calm.tags}
    assert page.attributes <= calm.attributes
    shown = {text.strip() for text in page.texts_of["bdi"]}
    for share in data["detailed_data"]["by_room_type"]:
        assert (clean(share["room_type"]) or "others") in shown
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]", "".join(page.texts))


def test_no_text_of_a_report_is_markup() -> None:
    """Each one, put there as a tag, is shown as it is."""
    mark = "<i>&"
    data = weekly()
    data |= dict.fromkeys(("report_type", "period_start", "period_end", "currency"), mark)
    data |= {"generated_by_system": mark, "generated_at": mark}
    detail = data["detailed_data"]
    detail["by_origin"][0] |= {"origin": mark, "channel": mark}
    detail["by_room_type"][0]["room_type"] = mark
    detail |= {"notes": [mark], "other_revenue_by_category": {mark: 1}}
    detail["changes"] = [{"figure": mark, "before": 1, "after": 2}]
    page = Page(as_html([data, data], title=mark))
    assert not page.named("i")
    assert "".join(page.texts).count(mark) > 20


@given(foreign_reports())
def test_nothing_in_a_report_makes_a_page_fail(data: dict[str, Any]) -> None:
    """Fields of any shape are shown, left out or dashed, never raised over."""
    Page(as_html([data, {}]))


def test_a_page_of_nothing_has_no_figures() -> None:
    """Dashes stand where figures would."""
    assert "<dd>–</dd>" in as_html([{}])


@given(st.decimals(-(10**15), 0, places=2), st.decimals(0, 10**15, places=2))
def test_an_axis_reaches_over_what_it_shows(low: Decimal, high: Decimal) -> None:
    """By a few round numbers, one of them nothing."""
    scale = ticks(low, high)
    assert scale[0] <= low
    assert scale[-1] >= high
    assert 0 in scale
    assert 2 <= len(scale) <= 7
    assert all(len(short(tick)) <= 7 for tick in scale)


@pytest.mark.parametrize(("value", "text"), [("1200000", "1.2M"), ("500000", "500k"), ("0", "0"), ("-2500", "-2.5k")])
def test_axis_labels_are_short(value: str, text: str) -> None:
    """Thousands and millions by their letters."""
    assert short(Decimal(value)) == text
