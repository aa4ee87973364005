"""`/reports`, and the scheduler within a whole hub."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from house import House

from hub.errors import StartError
from hub.settings import load

OPS: dict[str, Any] = {"system": "hub", "tenants": ("*",), "scopes": ("ops", "admin", "subscribe:*", "publish:*")}
MEMBER: dict[str, Any] = {"system": "hotel-member", "tenants": ("default",), "scopes": ("subscribe:analytics.*",)}


async def stayed(house: House, day: str) -> None:
    """One night that was slept, stored and archived."""
    checkout = (datetime.fromisoformat(day) + timedelta(days=1)).date().isoformat()
    data = {"data_checkin_date": day, "data_checkout_date": checkout, "data_status": "checked_out"}
    event = house.reservation("R1", **data, action="checked_out", occurred_at=f"{checkout}T10:00:00+09:00")
    await house.archived(*await house.publish(event))


async def run(house: House, code: int = 201, as_: dict[str, Any] = OPS, **asked: Any) -> Any:
    """POST /reports/run."""
    asked = {"tenant": "default", "report": "daily_report"} | asked
    answer = await house.http.post("/reports/run", json=asked, headers=house.headers(**as_))
    assert answer.status_code == code, answer.text
    return answer.json()


async def get(house: House, path: str = "", code: int = 200, as_: dict[str, Any] = OPS, **params: Any) -> Any:
    """GET /reports…"""
    answer = await house.http.get(f"/reports{path}", params=params, headers=house.headers(**as_))
    assert answer.status_code == code, answer.text
    return answer.json() if "json" in answer.headers["Content-Type"] else answer


async def test_a_report_made_now(house: House) -> None:
    """The answer has the run with its report; the run is found again, and the event is there for its targets alone."""
    await stayed(house, "2026-07-14")
    made = await run(house, date="2026-07-14")

    assert (made["job"], made["state"], made["stage"], made["attempts"]) == ("manual", "done", "final", 1)
    assert (made["tenant_id"], made["report"]) == ("default", "daily_report")
    assert made["period_start"] == made["period_end"] == "2026-07-14"
    assert made["event_id"] == made["run_id"]
    assert made["data"]["total_revenue"] == 24000
    assert made["data"]["generated_by_system"] == "hub"
    assert made["deliveries"] == {
        system: {"status": "waiting", "at": None, "reminders": 0} for system in ("hotel-member", "hotel-saas")
    }
    found = await get(house, f"/{made['run_id']}")
    assert {**found, "deliveries": {}} == {**made, "deliveries": {}}
    [listed] = (await get(house))["runs"]
    assert listed["run_id"] == made["run_id"]
    assert "data" not in listed

    for system, code in (("hotel-member", 200), ("hotel-saas", 200), ("hotel-pms", 404)):
        answer = await house.http.get(f"/events/{made['event_id']}", headers=house.headers(system))
        assert answer.status_code == code
        assert code != 200 or answer.json()["event"]["data"] == made["data"]


async def test_every_format(house: House) -> None:
    """JSON has the run, the others the report alone."""
    await stayed(house, "2026-07-14")
    path = f"/{(await run(house, date='2026-07-14'))['run_id']}"

    for name, media, said in (
        ("csv", "text/csv", "\r\n"),
        ("html", "text/html", "<html"),
        ("text", "text/plain", "\n"),
    ):
        answer = await get(house, path, format=name)
        assert answer.headers["Content-Type"] == f"{media}; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert said in answer.text
        assert "2026-07-14" in answer.text
    assert (await get(house, path, format="json"))["data"]["report_type"] == "daily_report"
    assert (await get(house, path, 422, format="pdf"))["errors"][0]["path"] == "format"


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ({"report": "yearly_report"}, 422, "report: "),
        ({"report": None}, 422, "report: "),
        ({"date": "2026-02-30"}, 422, "date: "),
        ({"date": "today"}, 422, "date: "),
        ({"date": 20260714}, 422, "date: "),
        ({"date": "2999-01-01"}, 422, "date: 2999-01-01 is in the future"),
        ({"date": "9999-12-31", "report": "monthly_report"}, 422, "is in the future"),
        ({"date": "0001-01-01", "report": "weekly_report"}, 422, "is before 1971"),
        ({"tenant": None}, 422, "tenant: "),
        ({"tenant": "../x"}, 422, "tenant: "),
        ({"tenant": "nowhere"}, 404, "there is no tenant nowhere"),
        ({"days": 3}, 422, "days: "),
    ],
)
async def test_what_cannot_be_made(standing: House, asked: dict[str, Any], code: int, said: str) -> None:
    """Is refused, naming the field, and leaves no run."""
    await standing.publish(standing.reservation())

    assert said in (await run(standing, code, **asked))["detail"]
    assert (await get(standing))["runs"] == []


async def test_who_may_make_reports(house: House) -> None:
    """Who has the scope `ops`, for a tenant of the token."""
    await house.publish(house.reservation())
    own = {"system": "hotel-pms", "tenants": ("default",), "scopes": ("ops",)}
    assert (await run(house, 403, MEMBER))["code"] == "forbidden"
    assert (await run(house, 403, own, tenant="another"))["code"] == "forbidden"
    answer = await house.http.post("/reports/run", content=b'{"report": "daily_report"}', headers=house.headers(**own))
    assert answer.status_code == 201, answer.text
    for content in (b"[]", b"null", b"7", b'"daily_report"'):
        answer = await house.http.post("/reports/run", content=content, headers=house.headers(**OPS))
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"] == "the body must be a JSON object"
        assert answer.json()["errors"][0]["path"] == ""
    for content, code in ((b"{", 400), (b'{"report": "daily_report", "report": 1}', 400)):
        answer = await house.http.post("/reports/run", content=content, headers=house.headers(**OPS))
        assert answer.status_code == code, answer.text


async def test_who_may_see_reports(house: House) -> None:
    """Operators, and the targets with a scope for them; of errors within the hub, operators alone."""
    await house.publish(house.reservation())
    made = await run(house)
    path = f"/{made['run_id']}"
    pms = {"system": "hotel-pms", "tenants": ("default",), "scopes": ("subscribe:*",)}
    elsewhere = MEMBER | {"tenants": ("another",)}

    assert [one["run_id"] for one in (await get(house, as_=MEMBER))["runs"]] == [made["run_id"]]
    assert (await get(house, path, as_=MEMBER))["data"] == made["data"]
    assert (await get(house, code=403, as_=pms))["code"] == "forbidden"
    assert (await get(house, path, 404, pms))["code"] == "not_found"
    assert (await get(house, as_=elsewhere))["runs"] == []
    assert (await get(house, path, 404, elsewhere))["code"] == "not_found"
    assert (await get(house, code=403, as_=MEMBER, tenant="another"))["code"] == "forbidden"
    assert (await house.http.get("/reports")).status_code == 401


async def test_listings_are_filtered_and_paged(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """By each parameter; wrong ones are named."""
    await house.publish(house.reservation())
    days = ["2026-07-10", "2026-07-11", "2026-07-12"]
    made = [(await run(house, date=day))["run_id"] for day in days]
    week = (await run(house, report="weekly_report", date="2026-07-11"))["run_id"]

    async def seen(**params: Any) -> list[str]:
        return [one["run_id"] for one in (await get(house, **params))["runs"]]

    assert await seen() == [week, *reversed(made)]
    assert await seen(date="2026-07-11") == [week, made[1]]
    assert await seen(date="2026-07-11", report="daily_report") == [made[1]]
    assert await seen(report="daily_report,weekly_report", tenant="default", job="manual", state="done") == await seen()
    assert await seen(state="failed") == await seen(job="daily") == []
    now = datetime.now(UTC)
    assert await seen(**{"from": (now - timedelta(hours=1)).isoformat()}) == await seen()
    assert await seen(to=(now - timedelta(hours=1)).isoformat()) == []
    first = await get(house, limit=3)
    rest = await get(house, limit=3, after=first["next"])
    assert [one["run_id"] for one in first["runs"] + rest["runs"]] == await seen()
    assert rest["next"] is None

    wrongs: tuple[dict[str, Any], ...] = (
        {"report": "yearly_report"},
        {"state": "good"},
        {"limit": "0"},
        {"limit": "501"},
        {"limit": "many"},
        {"after": "x"},
        {"date": "11.7.2026"},
        {"job": ""},
        {"job": "daily\0"},
        {"job": "x" * 41},
        {"tenant": "default\0"},
        {"tenant": "x" * 65},
        {"tenant": "default,../x"},
        {"from": "yesterday"},
        {"to": "2026-07-14"},
    )
    for wrong in wrongs:
        refused = await get(house, code=422, **wrong)
        assert refused["errors"][0]["path"] == next(iter(wrong))
    assert (await get(house, "/11111111-1111-5111-8111-111111111111", 404))["code"] == "not_found"
    assert (await get(house, f"/{week.upper()}"))["run_id"] == week
    # PostgreSQL would refuse some of these: the store is not asked.
    monkeypatch.setattr(house.hub.store.runs, "get", None)
    for run_id in ("no-uuid", "%00", f"{week}%00", f"{week}0", "x" * 5000):
        assert (await get(house, f"/{run_id}", 404))["code"] == "not_found"


async def test_what_a_target_did_comes_into_the_delivery_log(house: House) -> None:
    """It acknowledges the report: the run says so once the scheduler has looked, and the event's trace at once."""
    await house.archived(*await house.publish(house.reservation()))
    async with house.socket(token=house.token("hotel-member", scopes=("subscribe:*",))) as socket:
        await socket.ask("subscribe", id=1, patterns=["analytics.*"], name="reports")
        made = await run(house)
        frame = await socket.next()
        assert frame["event"]["event_id"] == made["run_id"]
        await socket.send("ack", cursors={"default": frame["cursor"]})
        await socket.quiet()
        async with asyncio.timeout(20):
            while True:
                trace = await house.http.get(f"/events/{made['run_id']}/trace", headers=house.headers(**OPS))
                if trace.json()["systems"]["hotel-member"]["status"] == "acknowledged":
                    break
                # The ledger is written by itself, which sends no signal.
                await asyncio.sleep(0.05)
    found = await get(house, f"/{made['run_id']}")
    assert set(found["deliveries"]) == {"hotel-member", "hotel-saas"}
    assert found["settled"] is False


async def test_the_scheduler_runs_in_a_hub(start: Callable[..., Any]) -> None:
    """A job of every minute is begun for a property that was described: its mark is there, its role is told."""
    jobs = {"minutely": {"cron": "* * * * *", "report": "daily_report"}}
    async with start(jobs=jobs) as house:
        await house.hub.tenants.put({"tenant_id": "default"})
        # What it was told of, it schedules in the next round, which the next start makes at once.
        assert "scheduler" in (await house.http.get(f"http://127.0.0.1:{house.hub.port}/readyz")).json()["roles"]
        data_dir = house.hub.settings.data_dir
    async with start(jobs=jobs, data_dir=data_dir) as house:
        marks: dict[str, dict[str, int]] = {}
        async with asyncio.timeout(20):
            # The store is written by the scheduler, which sends no signal.
            while not (marks := await house.hub.store.runs.marks()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert set(marks["default"]) == {
            *("daily", "daily-final", "weekly", "weekly-final", "monthly", "monthly-final", "minutely")
        }


async def test_a_hub_without_the_role_schedules_nothing(start: Callable[..., Any]) -> None:
    """It makes the reports that are asked for all the same."""
    async with start(roles=("gateway", "archiver")) as house:
        await house.publish(house.reservation())
        assert (await run(house))["state"] == "done"
        assert await house.hub.store.leases.look("scheduler") is None


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        ('{"never": {"cron": "0 0 31 2 *", "report": "daily_report"}}', "HUB_JOBS.NEVER.CRON"),
        ('{"six": {"cron": "0 0 1 1 * *", "report": "daily_report"}}', "HUB_JOBS.SIX.CRON"),
        ('{"x": {"cron": "0 0 1 1 *", "report": "yearly"}}', "HUB_JOBS.X.REPORT"),
        ('{"X y": {"cron": "0 0 1 1 *", "report": "daily_report"}}', "HUB_JOBS"),
    ],
)
def test_a_job_that_cannot_be_is_refused_at_start(jobs: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Naming the setting and what is wrong with it."""
    monkeypatch.setenv("HUB_JOBS", jobs)
    with pytest.raises(StartError) as refused:
        load()
    assert said in refused.value.message


async def test_a_job_with_a_built_in_name_is_refused_at_start(start: Callable[..., Any]) -> None:
    """It would be another's."""
    with pytest.raises(StartError, match="HUB_JOBS: daily is the name of a built-in job"):
        async with start(jobs={"daily": {"cron": "0 12 * * *", "report": "daily_report"}}):
            pass
