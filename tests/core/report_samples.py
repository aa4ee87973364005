"""Reports to be shown: of a day, a week and a month, at every stage, one of another generator, and hostile ones."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from datetime import date, timedelta
from typing import Any

from hypothesis import strategies as st

ROOMS = 80


def daily() -> dict[str, Any]:
    """A provisional day of a house that sells in yen."""
    return _report("daily_report", date(2026, 10, 14), 1, "provisional")


def weekly() -> dict[str, Any]:
    """A final week."""
    return _report("weekly_report", date(2026, 10, 4), 7, "final")


def monthly() -> dict[str, Any]:
    """A month that was revised, in euro."""
    data = _report("monthly_report", date(2026, 10, 1), 31, "revised", currency="EUR", cents=100)
    detail = data["detailed_data"]
    detail["late_events"] = 3
    detail["changes"] = [
        {"figure": "total_revenue", "before": 380_155.5, "after": data["total_revenue"]},
        {"figure": "occupancy_rate", "before": 0.7124, "after": data["occupancy_rate"]},
        {"figure": "cancellations", "before": 40, "after": detail["cancellations"]},
        {"figure": "adr", "before": None, "after": detail["adr"]},
    ]
    return data


def foreign() -> dict[str, Any]:
    """What another generator wrote, with a detail of its own shape."""
    return {
        "report_type": "daily_report",
        "period_start": "2026-07-14",
        "period_end": "2026-07-14",
        "total_revenue": 1_286_400,
        "currency": "JPY",
        "occupancy_rate": 0.875,
        "customer_count": 163,
        "average_stay_duration": 1.4,
        "detailed_data": {"by_origin": {"ota": 81, "direct_web": 40}, "adr": 18_342.5},
        "generated_by_system": "night-audit",
        "generated_at": "2026-07-14T23:00:00+09:00",
    }


def samples() -> list[dict[str, Any]]:
    """All of them."""
    return [daily(), weekly(), monthly(), foreign()]


def _report(kind: str, start: date, days: int, stage: str, currency: str = "JPY", cents: int = 1) -> dict[str, Any]:
    figures = [_day(start + timedelta(days=at), cents) for at in range(days)]
    sold = sum(day["sold_room_nights"] for day in figures)
    available = sum(day["available_room_nights"] for day in figures)
    room_revenue = _sum(day["room_revenue"] for day in figures)
    total = _sum(day["total_revenue"] for day in figures)
    other = round(total - room_revenue, 2)
    return {
        "report_type": kind,
        "period_start": start.isoformat(),
        "period_end": (start + timedelta(days=days - 1)).isoformat(),
        "total_revenue": total,
        "currency": currency,
        "occupancy_rate": round(sold / available, 4),
        "customer_count": round(sold * 1.6),
        "average_stay_duration": 2.35,
        "generated_by_system": "hotel-pms",
        "generated_at": f"{start + timedelta(days=days)}T00:05:00+09:00",
        "detailed_data": {
            "stage": stage,
            "as_of": "1793804700000-0",
            "rooms": ROOMS,
            "sold_room_nights": sold,
            "available_room_nights": available,
            "out_of_order_room_nights": ROOMS * days - available,
            "out_of_service_room_nights": days,
            "day_uses": 2 * days,
            "room_revenue": room_revenue,
            "other_revenue": other,
            "other_revenue_by_category": _split(other, {"food": 5, "beverage": 2, "spa": 2, "minibar": 1}),
            "adr": round(room_revenue / sold, 4),
            "revpar": round(room_revenue / available, 4),
            "arrivals": sum(day["arrivals"] for day in figures),
            "departures": sum(day["departures"] for day in figures),
            "no_shows": days,
            "cancellations": 3 * days,
            "lead_time_days": 23.4,
            "by_origin": _shares(sold, room_revenue, ORIGINS),
            "by_room_type": _shares(sold, room_revenue, ROOM_TYPES),
            "days": figures,
            "pickup": {
                "period": {"reservations": 42 * days, "nights": 95 * days, "revenue": 1_300_000 * days / cents},
                "previous": {"reservations": 40 * days, "nights": 99 * days, "revenue": 1_210_000 * days / cents},
            },
            "notes": ["Two rooms are out of order until the end of the month.", "露天風呂は10月20日まで休業します。"],
        },
    }


ORIGINS: list[tuple[dict[str, str], int]] = [
    ({"origin": "ota", "channel": "booking_com"}, 31),
    ({"origin": "ota", "channel": "rakuten_travel"}, 22),
    ({"origin": "direct_web"}, 18),
    ({"origin": "travel_agent", "channel": "jtb"}, 14),
    ({"origin": "phone"}, 9),
    ({"origin": "walk_in"}, 6),
]
ROOM_TYPES: list[tuple[dict[str, str], int]] = [
    ({"room_type": "twin"}, 44),
    ({"room_type": "和室（露天風呂付き）"}, 27),
    ({"room_type": "single"}, 21),
    ({"room_type": "suite with a terrace towards the sea and the mountains"}, 8),
]


def _shares(nights: int, revenue: float, weights: list[tuple[dict[str, str], int]]) -> list[dict[str, Any]]:
    return [
        {**label, "nights": nights * weight // 100, "revenue": round(revenue * weight / 100, 2)}
        for label, weight in weights
    ]


def _split(amount: float, weights: dict[str, int]) -> dict[str, float]:
    return {name: round(amount * weight / sum(weights.values()), 2) for name, weight in weights.items()}


def _sum(amounts: Iterable[float]) -> float:
    return round(sum(amounts), 2)


def _day(day: date, cents: int) -> dict[str, Any]:
    # Fuller towards the weekend, and a little different every week.
    available = ROOMS - 2
    sold = min(available, (38, 36, 44, 52, 70, 78, 47)[day.weekday()] + day.day % 5)
    room_revenue = round(sold * (14_500 + 900 * day.weekday()) / cents, 2)
    return {
        "date": day.isoformat(),
        "total_revenue": round(room_revenue + sold * 2_345 / cents, 2),
        "room_revenue": room_revenue,
        "sold_room_nights": sold,
        "available_room_nights": available,
        "arrivals": sold // 2,
        "departures": sold // 2 - 1,
    }


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
