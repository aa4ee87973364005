"""`hub reports`: what jobs did, the reports, and one made now."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from hub_process import PATIENCE_S, HubProcess

from hub.cli import reports
from hub.cli.remote import Remote

DAY = "2026-07-14"


def stayed(hub: HubProcess, tenant: str) -> None:
    """One night that was slept, stored."""
    data = {
        "reservation_id": "R1",
        "room_type": "twin",
        "checkin_date": DAY,
        "checkout_date": "2026-07-15",
        "total_amount": 24000,
        "status": "checked_out",
        "origin": "phone",
    }
    event = {"type": "reservation", "action": "checked_out", "tenant_id": tenant, "data": data}
    event |= {"occurred_at": "2026-07-15T10:00:00+09:00"}
    answer = httpx.post(
        f"{hub.url}/api/v1/events",
        headers={"Authorization": f"Bearer {hub.token()}"},
        json=event,
        timeout=PATIENCE_S,
        trust_env=False,
    )
    assert answer.status_code == 201, answer.text


def run(hub: HubProcess, tenant: str, *more: str) -> Any:
    """Make a report, as JSON."""
    return hub.json("reports", "run", "--tenant", tenant, "--report", "daily_report", *more)


def lines(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """A table's lines."""
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_a_report_is_made_listed_and_shown(hub: HubProcess) -> None:
    """By its run's id, or as the newest on its period; in every format, on stdout and into a file."""
    stayed(hub, "made")
    head, row = lines(hub.call("reports", "run", "--tenant", "made", "--report", "daily_report", "--date", DAY))
    told = dict(zip(head, row, strict=True))
    assert (told["tenant"], told["job"], told["report"], told["period"]) == ("made", "manual", "daily_report", DAY)
    assert (told["stage"], told["state"], told["attempts"], told["error"]) == ("final", "done", "1", "")
    assert told["targets"] == "hotel-member waiting, hotel-saas waiting"

    assert lines(hub.call("reports", "list", "--tenant", "made")) == [head, row]
    [listed] = [
        json.loads(one) for one in hub.call("reports", "list", "--tenant", "made", "--json").stdout.splitlines()
    ]
    assert listed["run_id"] == told["run id"]
    shown = hub.json("reports", "show", told["run id"])
    assert shown["data"]["total_revenue"] == 24000
    assert {**shown, "deliveries": {}, "data": {}} == {**listed, "deliveries": {}, "data": {}}

    newest = ("--tenant", "made", "--report", "daily_report", "--date", DAY)
    for format, said in (("text", "24,000"), ("csv", "24000"), ("html", "<html"), ("json", '"total_revenue":24000')):
        by_id = hub.call("reports", "show", told["run id"], "--format", format)
        assert by_id.returncode == 0, by_id.stderr
        assert said in by_id.stdout
        assert hub.call("reports", "show", *newest, "--format", format).stdout == by_id.stdout
        file = hub.directory / f"report.{format}"
        written = hub.call("reports", "show", *newest, "--format", format, "--output", str(file))
        assert (written.returncode, written.stdout) == (0, "")
        assert str(file) in written.stderr
        assert file.read_bytes().decode() == by_id.stdout
    assert hub.call("reports", "show", told["run id"]).stdout == (hub.directory / "report.text").read_text()
    assert b"\r\n" in (hub.directory / "report.csv").read_bytes()


def test_the_newest_report_on_a_period_is_shown(hub: HubProcess) -> None:
    """A later run of the same period comes before the first."""
    hub.publish(range(1), "newest")
    first, second = run(hub, "newest", "--date", DAY), run(hub, "newest", "--date", DAY)

    found = hub.json("reports", "show", "--tenant", "newest", "--report", "daily_report", "--date", DAY)
    assert found["run_id"] == second["run_id"] != first["run_id"]


def test_the_last_day_is_reported_by_default(hub: HubProcess) -> None:
    """It is over."""
    hub.publish(range(1), "default-day")

    made = run(hub, "default-day")
    assert (made["stage"], made["job"]) == ("final", "manual")


def test_listings_are_filtered_and_say_where_there_is_more(hub: HubProcess) -> None:
    """By job, report, time and failure."""
    hub.publish(range(1), "filtered")
    for day in ("2026-07-10", "2026-07-11", "2026-07-12"):
        run(hub, "filtered", "--date", day)

    def listed(*options: str) -> list[str]:
        return [row[4] for row in lines(hub.call("reports", "list", "--tenant", "filtered", *options))[1:]]

    whole = ["2026-07-12", "2026-07-11", "2026-07-10"]
    assert listed() == listed("--job", "manual", "--report", "daily_report", "--since", "1h") == whole
    assert listed("--job", "daily") == listed("--failed") == listed("--since", "2999-01-01T00:00:00Z") == []
    few = hub.call("reports", "list", "--tenant", "filtered", "--limit", "2")
    assert len(few.stdout.splitlines()) == 3
    assert "there are more: raise --limit" in few.stderr


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("show",), 2, "which report?"),
        (("show", "x", "--tenant", "t"), 2, "which report?"),
        (("show", "--tenant", "t", "--report", "daily_report"), 2, "Give --report and --date too"),
        (("show", "x", "--format", "pdf"), 2, "there is no format pdf"),
        (("show", "x", "--format", "csv", "--json"), 2, "exclude each other"),
        (("show", "no-run"), 1, "there is no report run no-run"),
        (("show", ".."), 1, "there is no report run .."),
        (
            ("show", "--tenant", "t", "--report", "daily_report", "--date", DAY),
            1,
            f"there is no daily_report of t on {DAY}",
        ),
        (("show", "--tenant", "t", "--report", "x", "--date", DAY), 1, "report: must be one of daily_report"),
        (("run", "--tenant", "nowhere", "--report", "daily_report"), 1, "there is no tenant nowhere"),
        (("run", "--tenant", "nowhere", "--report", "yearly"), 1, "report: "),
        (("run", "--report", "daily_report"), 2, "--tenant"),
        (("list", "--since", "yesterday"), 1, "from: must be an ISO 8601 instant"),
        (("list", "--since", "99999999999999d"), 2, "longer ago than there were computers"),
    ],
)
def test_what_is_wrong_is_told(options: tuple[str, ...], code: int, said: str, hub: HubProcess) -> None:
    """On stderr alone, with the exit code for it."""
    done = hub.call("reports", *options)

    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_day_that_is_still_to_come(hub: HubProcess) -> None:
    """Is refused, naming the field."""
    hub.publish(range(1), "future")
    done = hub.call("reports", "run", "--tenant", "future", "--report", "daily_report", "--date", "2999-01-01")

    assert done.returncode == 1
    assert "date: 2999-01-01 is in the future" in done.stderr


def test_a_file_that_cannot_be_written(hub: HubProcess, tmp_path: Path) -> None:
    """Is told with what to do."""
    hub.publish(range(1), "unwritten")
    made = run(hub, "unwritten", "--date", DAY)
    done = hub.call("reports", "show", made["run_id"], "--output", str(tmp_path / "no" / "report.txt"))

    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "--output" in done.stderr


def test_a_run_without_a_report(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state is told instead, on a terminal too; JSON shows the run."""

    async def get(_: Remote, path: str, **__: Any) -> Any:
        return {"run_id": "r-1", "state": "failed", "data": None, "path": path}

    monkeypatch.setattr(Remote, "get", get)
    monkeypatch.setattr(reports, "on_terminal", lambda: True)
    done = hub.call("reports", "show", "r-1")
    assert done.returncode == 1
    assert "there is no report of the run r-1: it is failed" in done.stderr
    assert hub.json("reports", "show", "r-1")["state"] == "failed"


def test_on_a_terminal_the_report_is_as_wide_as_that(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """In colour, and made here."""
    hub.publish(range(1), "wide")
    made = run(hub, "wide", "--date", DAY)
    monkeypatch.setattr(reports, "on_terminal", lambda: True)
    hub.environment["COLUMNS"] = "60"
    try:
        told = hub.call("reports", "show", made["run_id"])
    finally:
        del hub.environment["COLUMNS"]

    assert told.returncode == 0, told.stderr
    assert "\x1b[" in told.stdout
    assert told.stdout != hub.call("reports", "show", made["run_id"], "--format", "text").stdout
