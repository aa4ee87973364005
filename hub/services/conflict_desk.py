"""Conflicts that people see and resolve (R71, R74).

Resolving publishes the event that the held item was to become, by the item's own uuid, so that it is in the log exactly
once, whoever decides how often: with what the desk said, with that and some fields set otherwise, or, where the present
values stay, with these. Then the conflict is closed and the device is asked to sync.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal, NamedTuple

import structlog
import uuid_utils
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hub.core import authority
from hub.core.conflicts import MERGED, STAY
from hub.core.delivery import instant
from hub.core.entry import Entry
from hub.core.sync_models import Planned, event_of
from hub.log.topology import RedisError
from hub.security.tokens import Claims
from hub.services.announcer import Announcer
from hub.services.conflict_views import compared, shown
from hub.services.decided_rooms import DecidedRooms
from hub.services.history import History
from hub.services.publisher import MAX_FIELDS, Systems
from hub.services.sync_records import Known, SyncRecords
from hub.store.database import StoreUnavailable
from hub.store.sync_conflicts import (
    MAX_BY,
    Claim,
    Conflict,
    ConflictFilter,
    ConflictItem,
    Resolution,
    SyncConflicts,
)
from hub.telemetry import Metrics
from schemas import billing
from schemas.errors import FieldError, Problem, invalid_request
from schemas.registry import EVENT_TYPES
from schemas.sync import SYNCED_TYPES
from schemas.types import HUB, TRACKING

MAX_PAGE: Final = 500
ATTEMPTS: Final = 10
"""How often an entity may have moved on while its conflict is resolved."""
_AGAIN: Final = {("reservation", "created"): "updated", ("order", "placed"): "changed"}
"""What begins is not said twice: those who count bookings and orders would count two."""
_PLACE: Final = re.compile(r"c([0-9]{1,15})-([0-9a-f-]{36})")

log = structlog.get_logger("hub.conflicts")


class ResolveRequest(BaseModel):
    """The body of `POST /conflicts/{id}/resolve`.

    `incoming`: as the desk said it. `edited`: so too, with the fields of `data` set otherwise (null removes one).
    `current`: the present values stay.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    choice: Literal["incoming", "current", "edited"]
    data: Annotated[dict[str, Any] | None, Field(max_length=MAX_FIELDS)] = None
    reason: Annotated[str | None, Field(max_length=500)] = None

    @model_validator(mode="after")
    def _data_is_for_edited(self) -> ResolveRequest:
        if (self.choice == "edited") != bool(self.data):
            raise ValueError("`data`, with the fields to set, goes with the choice `edited`, and with that alone")
        return self


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of conflicts as the API says them, and where the next one begins."""

    conflicts: list[dict[str, Any]]
    next: str | None


class _Case(NamedTuple):
    """A conflict with its item, and who decides it how."""

    conflict: Conflict
    item: ConflictItem
    claims: Claims
    decision: Claim


class _Plan(NamedTuple):
    """An event, who is sent it, and the revision of its entity that it was made on."""

    event: Planned
    targets: list[str]
    revision: int


class ConflictDesk:
    """What the routes of `/conflicts` call. Methods raise `StoreUnavailable`, `RedisError` and `OSError` when store or
    log do not answer."""

    def __init__(
        self,
        conflicts: SyncConflicts,
        records: SyncRecords,
        history: History,
        announcer: Announcer,
        systems: Systems,
        metrics: Metrics,
        wake: Callable[[str, str, str], Awaitable[None]],
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`wake(tenant, device, why)` asks a device to sync."""
        self._conflicts = conflicts
        self._records = records
        self._history = history
        self._announcer = announcer
        self._systems = systems
        self._metrics = metrics
        self._wake = wake
        self._wall = wall
        self._rooms = DecidedRooms(records, announcer, systems)

    # -- reading --------------------------------------------------------------------------------------------------

    async def listed(self, claims: Claims, wanted: ConflictFilter, limit: int, after: str | None) -> Listing:
        """Conflicts of the token's tenants, the oldest first.

        Raises:
            Problem: `forbidden`; `invalid_request` for an `after` that is none.
        """
        types = self._types(claims)
        for one in wanted.tenants or ():
            claims.require_tenant(one)
        place = None
        if after is not None:
            found = _PLACE.fullmatch(after)
            if found is None:
                raise invalid_request("after", "must be the `next` of a page, as it was given")
            place = (int(found[1]), found[2])
        tenants = wanted.tenants or (None if claims.all_tenants else claims.tenants)
        wanted = replace(wanted, tenants=tenants, types=types)
        rows = await self._conflicts.listed(wanted, limit + 1, place)
        if any([await self.finish(one.conflict_id) for one in rows if _half_done(one)]):
            rows = await self._conflicts.listed(wanted, limit + 1, place)
        last = rows[limit - 1] if len(rows) > limit else None
        return Listing(
            [shown(one) for one in rows[:limit]], None if last is None else f"c{last.opened_ms}-{last.conflict_id}"
        )

    async def get(self, claims: Claims, conflict_id: str) -> dict[str, Any]:
        """One conflict, field by field: who said what when, and what is so now.

        Raises:
            Problem: `not_found`, also for one that the token may not see; `forbidden`.
        """
        conflict, item = await self._get(claims, conflict_id)
        known = (await self._records.load(conflict.tenant_id, [conflict.entity]))[conflict.entity]
        events = await self._records.events(conflict.tenant_id, conflict.entity)
        return shown(conflict) | {
            "operation": item.operation,
            "action": item.action,
            "fields": compared(conflict, item, known, events),
            "current": {"revision": conflict.current_revision, "data": conflict.current},
            "incoming": {
                "data": conflict.incoming,
                "base_version": item.base_version,
                "device_sequence": item.device_sequence,
                "created_at": item.created_at,
                "corrected_at": instant(item.created_ms),
                "received_at": instant(item.received_ms),
            },
            "present": {"revision": known.revision, "data": known.data(conflict.type)},
        }

    async def _get(self, claims: Claims, conflict_id: str) -> tuple[Conflict, ConflictItem]:
        types = self._types(claims)
        found = await self._conflicts.get(conflict_id)
        if found is not None and _half_done(found) and await self.finish(conflict_id):
            found = await self._conflicts.get(conflict_id)
        if found is None or not claims.holds(found.tenant_id) or (types is not None and found.type not in types):
            raise Problem("not_found", f"there is no conflict {conflict_id[:64]}")
        item = await self._conflicts.item(found.tenant_id, found.uuid)
        if item is None:
            raise Problem("not_found", f"the item of the conflict {conflict_id[:64]} is gone")
        return found, item

    def _types(self, claims: Claims) -> Collection[str] | None:
        """The types whose conflicts a token sees; None: of all."""
        if not claims.has("ops") and not claims.has("sync"):
            raise Problem("forbidden", "the token lacks the scope sync or ops")
        if claims.view != "full":
            raise Problem("forbidden", "nobody can decide by a masked copy; conflicts need a token with view `full`")
        if claims.has("ops") or claims.system == HUB:
            return None
        return frozenset(type for type in SYNCED_TYPES if self._is_for(claims.system, type))

    def _is_for(self, system: str, type: str) -> bool:
        kind = EVENT_TYPES[type]
        return any(system in self._systems.targets(kind, action) for action in kind.actions)

    # -- resolving ------------------------------------------------------------------------------------------------

    async def resolve(self, claims: Claims, conflict_id: str, asked: ResolveRequest) -> dict[str, Any]:
        """Decide a conflict; it as it is then. Done again in the same way it changes nothing.

        Raises:
            Problem: `not_found`; `conflict` where another person has decided it, or is at it; `invalid_event` where
                the decision makes no event that fits; `not_authority`; `outcome_unknown`, to be done again.
        """
        conflict, item = await self._get(claims, conflict_id)
        now_ms = self._now_ms()
        mine = Claim(str(uuid_utils.uuid7()), _by(claims), asked.choice, now_ms, asked.data, asked.reason)
        if conflict.state == "resolved":
            return _over(conflict, mine)
        # Refused before anything is claimed.
        planned = await self._planned(_Case(conflict, item, claims, mine))
        held, stands = await self._conflicts.claim(conflict_id, mine)
        if held is None or held.state == "resolved":
            return _over(held or conflict, mine)
        if not stands.same_as(mine):
            raise Problem(
                "conflict",
                f"{stands.by} is resolving this conflict since {instant(stands.at_ms)}",
                extra={"conflict_id": conflict_id, "resolved_by": stands.by},
            )
        case = _Case(held, item, claims, stands)
        try:
            whose, revision, cursor = await self._publish(case, planned)
        except (Problem, StoreUnavailable, RedisError, OSError) as error:
            unknown = isinstance(error, Problem) and error.code == "outcome_unknown"
            # One who had it before may have published: then it says whose that event is.
            if not unknown and held.claim is None:
                with suppress(StoreUnavailable):
                    await self._conflicts.release(conflict_id, stands)
            raise
        try:
            closed = await self._close(held, item, whose, revision, cursor)
        except StoreUnavailable as error:
            said = "the decision is published, but the conflict could not be closed; resolve it again in the same way"
            raise Problem("outcome_unknown", said, extra={"event_id": conflict.uuid}) from error
        return _over(closed, mine)

    async def finish(self, conflict_id: str) -> bool:
        """Close a conflict whose decision is in the log already: the hub that published it died before it could, or is
        at it. Whether it is closed now."""
        conflict = await self._conflicts.get(conflict_id)
        if conflict is None or conflict.claim is None or conflict.state == "resolved":
            return conflict is not None and conflict.state == "resolved"
        entry = await self._history.find(conflict.tenant_id, conflict.uuid)
        item = await self._conflicts.item(conflict.tenant_id, conflict.uuid)
        if entry is None or item is None:
            return False
        whose = _whose(conflict, [conflict.claim], entry, self._now_ms())
        try:
            await self._close(conflict, item, whose, entry.revision, entry.cursor)
        except Problem as problem:
            log.warning("conflict_not_finished", conflict_id=conflict_id, error=problem.detail)
            return False
        return True

    async def _publish(self, case: _Case, planned: _Plan) -> tuple[Claim, int, str]:
        """Publish the event unless it is in the log: whose decision it is, and its place."""
        conflict = case.conflict
        # The log itself remembers ids for days only.
        entry = await self._history.find(conflict.tenant_id, conflict.uuid)
        for _ in range(ATTEMPTS):
            if entry is not None:
                claims = [case.decision, *([] if conflict.claim is None else [conflict.claim])]
                return _whose(conflict, claims, entry, self._now_ms()), entry.revision, entry.cursor
            try:
                receipt = await self._announcer.publish(conflict.tenant_id, _event(case, planned))
            except Problem as problem:
                if problem.code != "conflict":
                    raise
                # It has moved on since it was looked at.
                self._records.forget(conflict.tenant_id, conflict.entity)
                planned = await self._planned(case)
                continue
            if not receipt["duplicate"]:
                return case.decision, receipt["revision"], receipt["cursor"]
            entry = await self._found(conflict.tenant_id, conflict.uuid)
        raise Problem("conflict", f"{conflict.entity} keeps changing; try again")

    async def _found(self, tenant_id: str, event_id: str) -> Entry:
        try:
            entry = await self._history.find(tenant_id, event_id)
        except (StoreUnavailable, RedisError, OSError) as error:
            raise Problem("outcome_unknown", str(error) or type(error).__name__) from error
        if entry is None:
            raise Problem("outcome_unknown", f"the event {event_id} was stored, and is not found now")
        return entry

    async def _close(
        self, conflict: Conflict, item: ConflictItem, whose: Claim, revision: int, cursor: str
    ) -> Conflict:
        if conflict.type == STAY:
            await self._rooms.settle(conflict)
        now_ms = self._now_ms()
        done = Resolution(revision, cursor, _winner(conflict, whose), _touched(conflict, item, whose))
        closed, by_this = await self._conflicts.resolve(conflict.conflict_id, whose, done, now_ms)
        if by_this:
            self._metrics.conflicts.labels(conflict.model, "manual", whose.choice).inc()
            self._metrics.conflict_resolution_seconds.observe(max(0, now_ms - conflict.opened_ms) / 1000)
            log.info(
                "conflict_resolved",
                conflict_id=conflict.conflict_id,
                event_id=conflict.uuid,
                device_id=conflict.device_id,
                choice=whose.choice,
                by=whose.by,
            )
            await self._wake(conflict.tenant_id, conflict.device_id, f"a conflict about {conflict.entity} is resolved")
        return closed

    # -- the event ------------------------------------------------------------------------------------------------

    async def _planned(self, case: _Case) -> _Plan:
        """The event of a decision, on what is so now.

        Raises:
            Problem: it makes none.
        """
        conflict = case.conflict
        known = (await self._records.load(conflict.tenant_id, [conflict.entity]))[conflict.entity]
        repeats = case.decision.choice == "current"
        planned = await self._repeated(conflict, known) if repeats else _said(case, known)
        if not case.claims.has("ops"):
            _require_authority(case.claims, planned, known)
        return _Plan(planned, known.audience(self._systems, planned, conflict.system), known.revision)

    async def _repeated(self, conflict: Conflict, known: Known) -> Planned:
        """An event that says what is so already: the last one of its type again, for its action has a meaning, too."""
        entity_id = conflict.entity.partition(":")[2]
        because = f"{conflict.model} of {conflict.device_id} was not carried out: conflict {conflict.conflict_id}"
        origin = (known.data(conflict.type) or {}).get("origin_system", conflict.system)
        if conflict.type == "billing":
            # Each event there is a movement of money: one of nothing.
            data: dict[str, Any] = {"folio_id": entity_id, "amount": 0, "reason": because, "origin_system": origin}
            if (currency := (known.data("billing") or {}).get("currency")) is not None:
                data["currency"] = currency
            return Planned("billing", "corrected", data)
        if conflict.type == "customer":
            said = {"customer_id": entity_id, "updated_fields": [], "origin_system": origin}
            return Planned("customer", "updated", said)
        states = known.states
        held = states.get(conflict.type) or max(states.values(), key=lambda one: one.revision, default=None)
        if held is None:
            message = f"nothing is known of {conflict.entity} that could stay; take incoming, or edit it"
            raise invalid_request("choice", message)
        type = next(name for name, one in states.items() if one is held)
        events = await self._records.events(conflict.tenant_id, conflict.entity)
        actions = [one.action for one in events if one.type == type and one.revision <= known.revision]
        if not actions:
            message = f"the last event of {conflict.entity} is no longer kept; take incoming, or edit it"
            raise invalid_request("choice", message)
        data = {name: value for name, value in held.data.items() if name not in ("updated_by_system", "synced_at")}
        return Planned(type, _AGAIN.get((type, actions[-1]), actions[-1]), data)

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)


def _require_authority(claims: Claims, planned: Planned, known: Known) -> None:
    """The hub publishes it, but whoever decides says no more than their system may."""
    kind = EVENT_TYPES[planned.type]
    held = known.data(planned.type) or {}
    permission = None if (others := kind.others.get(planned.action)) is None else others.permission
    news = {name: value for name, value in planned.data.items() if held.get(name) != value or name == permission}
    refused = authority.refusal(kind, planned.action, claims.system, news)
    if refused is not None:
        raise Problem("not_authority", f"{refused.path}: {refused.message}", [refused])


def _said(case: _Case, known: Known) -> Planned:
    """The event of what the desk said, or of that with some fields set otherwise."""
    conflict, decision = case.conflict, case.decision
    operation, action = case.item.operation, case.item.action
    fields = dict(conflict.incoming)
    if decision.data is not None:
        fields |= decision.data
        if operation == "DELETE":
            # Who sets fields means to keep it.
            operation, action = "UPDATE", None
    if conflict.type == "billing" and "balance" not in (decision.data or {}):
        fields = billing.balanced(fields, billing.action_of(operation, action, fields), known.data("billing"))
    touched = None if case.item.touched is None else frozenset((*case.item.touched, *(decision.data or ())))
    try:
        planned = event_of(conflict.model, operation, action, conflict.entity, fields, known.said, touched=touched)
    except Problem as problem:
        if decision.data is None:
            raise
        errors = [FieldError(re.sub(r"^payload\b", "data", one.path), one.message) for one in problem.errors]
        raise Problem(problem.code, f"{errors[0].path}: {errors[0].message}" if errors else "", errors) from None
    # What names the entity, what the hub sets, what the schema requires.
    kept = [name for name, value in (decision.data or {}).items() if planned.data.get(name) != value]
    if kept:
        message = f"stays {planned.data.get(kept[0])!r}: this cannot be set otherwise"
        raise Problem("invalid_event", f"data.{kept[0]}: {message}", [FieldError(f"data.{kept[0]}", message)])
    planned.data.setdefault("origin_system", conflict.system)
    return planned


def _event(case: _Case, plan: _Plan) -> dict[str, Any]:
    conflict, decision, planned = case.conflict, case.decision, plan.event
    event = {
        "event_id": conflict.uuid,
        "type": planned.type,
        "action": planned.action,
        "entity": conflict.entity,
        "data": planned.data,
        "targets": plan.targets,
        "expected_revision": plan.revision,
        "device_id": conflict.device_id,
        "causation_id": conflict.conflict_id,
        "correlation_id": decision.claim_id,
    }
    if decision.choice == "incoming" or conflict.type != STAY:
        # A stay that is decided otherwise is not the desk's doing: what it did on top of its own, it did not knowing.
        event["created_offline"] = True
    if decision.choice != "current":
        event["occurred_at"] = instant(case.item.created_ms)
    return event


def _half_done(conflict: Conflict) -> bool:
    """Whether somebody has begun to decide it."""
    return conflict.state == "open" and conflict.claim is not None


def _whose(conflict: Conflict, claims: Iterable[Claim], entry: Entry, now_ms: int) -> Claim:
    """Which of these decisions an event is that is in the log by the item's uuid, or whose else."""
    event = entry.event
    if entry.source == HUB and event.get("causation_id") == conflict.conflict_id:
        for one in claims:
            if event.get("correlation_id") == one.claim_id:
                return one
    by = f"{event.get('device_id') or entry.source or 'unknown'}: {entry.type}.{entry.action}"
    return Claim(str(uuid_utils.uuid7()), by[:MAX_BY], "elsewhere", now_ms)


def _winner(conflict: Conflict, whose: Claim) -> str | None:
    if whose.choice in ("incoming", "elsewhere"):
        return conflict.device_id
    if whose.choice == "edited":
        return MERGED
    rivals = {one["current_by"] for one in conflict.fields}
    return rivals.pop() if len(rivals) == 1 else None


def _touched(conflict: Conflict, item: ConflictItem, whose: Claim) -> frozenset[str]:
    """What of the event was news."""
    if whose.choice == "current":
        return frozenset()
    said = item.touched
    news = frozenset(conflict.incoming if said is None else said) | frozenset(whose.data or ())
    return news - TRACKING


def _by(claims: Claims) -> str:
    subject = claims.subject
    return (claims.system if subject in ("", claims.system) else f"{subject} ({claims.system})")[:MAX_BY]


def _over(conflict: Conflict, mine: Claim) -> dict[str, Any]:
    """The conflict, where it was resolved just so by the same person.

    Raises:
        Problem: it was resolved otherwise.
    """
    claim = conflict.claim
    if claim is not None and claim.same_as(mine):
        return shown(conflict)
    by = f"the policy {conflict.policy}" if claim is None else claim.by
    at = None if conflict.resolved_ms is None else instant(conflict.resolved_ms)
    choice = None if claim is None else claim.choice
    raise Problem(
        "conflict",
        f"the conflict was resolved by {by}" + ("" if choice is None else f" ({choice})") + f" at {at}",
        extra={"conflict_id": conflict.conflict_id, "resolved_by": by, "resolved_at": at, "choice": choice},
    )
