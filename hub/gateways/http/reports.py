"""Report runs with their delivery logs: `/reports`; and a report made now: `/reports/run`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, cast, get_args

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError

from hub.core.jobs import REPORTS
from hub.core.report_csv import as_csv
from hub.core.report_html import as_html
from hub.core.report_text import as_text
from hub.gateways.http.context import Asking, Hub, instant, json, json_object, listed, page_limit, tenant_id
from hub.services.report_requests import MAX_PAGE, RunRequest, shown
from hub.store.runs import RunFilter, State
from schemas import registry
from schemas.errors import Problem, invalid_request
from schemas.types import read_day

_RUN_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_JOB: Final = re.compile(r"[a-z][a-z0-9-]{0,39}")

Rendered = tuple[str, Callable[[Mapping[str, Any]], str]]
FORMATS: Final[Mapping[str, Rendered]] = MappingProxyType(
    {
        "csv": ("text/csv", lambda data: as_csv([data])),
        "html": ("text/html", lambda data: as_html([data])),
        "text": ("text/plain", as_text),
    }
)
"""Beside JSON: media type, and how a report becomes that."""

router = APIRouter(tags=["reports"])
_REQUEST = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": RunRequest.model_json_schema()}}}
}
_SHOWN: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The run with its report and its delivery log; in another format, the report alone",
        "content": {media: {} for media, _ in FORMATS.values()},
    },
    404: {"description": "Not there, or not for this token; or there is no report of it"},
}


@router.get("/reports", responses={200: {"description": '`{"runs": […], "next"}`, the one due last first'}})
async def list_(
    hub: Hub,
    claims: Asking,
    tenant: Annotated[list[str], Query(description="Tenants; all of the token by default")] = [],  # noqa: B006
    job: Annotated[str | None, Query(description="Only of this job")] = None,
    report: Annotated[list[str], Query(description="daily_report, weekly_report or monthly_report")] = [],  # noqa: B006
    state: Annotated[str | None, Query(description="running, done, failed or skipped")] = None,
    date: Annotated[str | None, Query(description="Only on a period that has this day")] = None,
    from_: Annotated[str | None, Query(alias="from", description="Due at or after this instant")] = None,
    to: Annotated[str | None, Query(description="Due before this instant")] = None,
    limit: Annotated[str | None, Query(description="At most so many, 100 by default")] = None,
    after: Annotated[str | None, Query(description="`next` of the page before")] = None,
) -> Response:
    """Runs of report jobs, the one due last first, with their delivery logs (R93). Scope `ops`, or `subscribe:` scopes
    that cover the reports, of a system they are for."""
    reports = listed(report)
    for one in reports:
        if one not in REPORTS:
            raise invalid_request("report", f"must be one of {', '.join(REPORTS)}")
    if state is not None and state not in get_args(State):
        raise invalid_request("state", f"must be one of {', '.join(get_args(State))}")
    # PostgreSQL knows no NUL: what cannot be a name never comes to the store.
    if job is not None and not _JOB.fullmatch(job):
        raise invalid_request("job", "must be the name of a job, like daily-final")
    tenants = listed(tenant)
    for one in tenants:
        tenant_id(one)
    wanted = RunFilter(
        frozenset(tenants) or None,
        frozenset(reports) or None,
        job,
        cast("State | None", state),
        instant("from", from_),
        instant("to", to),
        _day(date),
    )
    page = await hub.reports.listed(claims, wanted, page_limit(limit, MAX_PAGE), after)
    return json({"runs": [shown(run, claims) for run in page.runs], "next": page.next})


@router.post(
    "/reports/run",
    status_code=201,
    openapi_extra=_REQUEST,
    responses={201: {"description": "The run, done, with its report"}, 422: {"description": "Not that, or not yet"}},
)
async def run(request: Request, hub: Hub, claims: Asking) -> Response:
    """Make a report now and emit it, on any period that has begun. Scope `ops`."""
    claims.require("ops")
    said = await json_object(request)
    try:
        asked = RunRequest.model_validate(said)
    except ValidationError as error:
        raise registry.refused(error) from None
    made = await hub.reports.run(claims, asked)
    request.state.event_id = made.event_id
    return json(shown(made, claims) | {"data": made.data}, 201)


@router.get("/reports/{run_id}", responses=_SHOWN)
async def get(
    run_id: str,
    hub: Hub,
    claims: Asking,
    format: Annotated[str | None, Query(description="json (default), csv, html or text")] = None,
) -> Response:
    """One run: its report and what became of it with each target. Who may see it: as the listing."""
    if format not in (None, "json", *FORMATS):
        raise invalid_request("format", f"must be one of json, {', '.join(FORMATS)}")
    run_id = run_id.lower()
    if not _RUN_ID.fullmatch(run_id):
        raise Problem("not_found", f"there is no report run {run_id[:64]}")
    found = await hub.reports.get(claims, run_id)
    if format in (None, "json"):
        return json(shown(found, claims) | {"data": found.data})
    if found.data is None:
        raise Problem("not_found", f"there is no report of the run {found.run_id}: it is {found.state}")
    media, render = FORMATS[str(format)]
    return Response(
        render(found.data), media_type=f"{media}; charset=utf-8", headers={"X-Content-Type-Options": "nosniff"}
    )


def _day(text: str | None) -> Any:
    try:
        return None if text is None else read_day(text)
    except ValueError as error:
        raise invalid_request("date", str(error)) from None
