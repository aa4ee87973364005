"""What became of a pushed item: as it is answered, and as it is written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid5

import orjson

from hub.core.conflicts import Decision
from hub.services.sync_intake import Intent, answer, rejected
from hub.services.sync_records import Known
from hub.store.sync_items import ConflictMet, Settlement
from schemas.errors import FieldError
from schemas.sync import ItemResult

WAITS: Final = "conflict"
"""The path of errors that tell an item waits for another one: no attempt of it failed."""
_CONFLICTS: Final = UUID("7f0f3c1e-52a5-5c0b-9a0e-1d6f3a2b9c54")


@dataclass(slots=True)
class Settled:
    """What became of an item: its answer, what is written down, and the conflict it met."""

    result: ItemResult
    settlement: Settlement
    conflict: ConflictMet | None = None
    decision: Decision | None = None


def conflict_id(tenant_id: str, uuid: str) -> str:
    """The id of the conflict that an item met: the same however often it is sent."""
    return str(uuid5(_CONFLICTS, f"{tenant_id} {uuid}"))


def applied(
    tenant_id: str,
    intent: Intent,
    before: Known,
    after: Known,
    decision: Decision,
    receipt: Mapping[str, Any],
    now_ms: int,
) -> Settled:
    """The answer for an item whose event is stored, and the row of the conflict it met and that is settled."""
    result = ItemResult(
        uuid=intent.uuid,
        outcome=decision.outcome,
        cursor=receipt["cursor"],
        revision=receipt["revision"],
        version=after.version,
        policy=decision.policy,
        winner=decision.winner,
    )
    conflict = None
    if decision.contests or decision.policy == "delete_wins":
        conflict = _row(tenant_id, intent, before, decision, now_ms, receipt)
        result.conflict_id = conflict.conflict_id
    settlement = Settlement(
        intent.uuid,
        decision.outcome,
        decision.touched,
        receipt["revision"],
        receipt["cursor"],
        decision.policy,
        decision.winner,
        None if conflict is None else conflict.conflict_id,
    )
    return Settled(result, settlement, conflict, decision)


def in_conflict(tenant_id: str, intent: Intent, known: Known, decision: Decision, now_ms: int) -> Settled:
    """The answer for an item that a person decides on."""
    row = _row(tenant_id, intent, known, decision, now_ms, None)
    errors = [FieldError(one.field, f"is {_shown(one.current)} by {one.rival}") for one in decision.contests]
    result = answer(intent.uuid, "conflict", [FieldError(WAITS, decision.reason or "a person decides"), *errors])
    result.conflict_id, result.policy, result.version = row.conflict_id, "manual", known.version
    settlement = Settlement(intent.uuid, "conflict", decision.touched, policy="manual", conflict_id=row.conflict_id)
    return Settled(result, settlement, row, decision)


def _row(
    tenant_id: str,
    intent: Intent,
    known: Known,
    decision: Decision,
    now_ms: int,
    receipt: Mapping[str, Any] | None,
) -> ConflictMet:
    pushed = intent.pushed
    fields: list[dict[str, Any]] = [
        {
            "field": one.field,
            "base": one.base,
            "current": one.current,
            "incoming": one.incoming,
            "current_by": one.rival,
            "incoming_by": pushed.device_id,
            "winner": None if receipt is None else "incoming" if one.wins else "current",
        }
        for one in decision.contests
    ]
    return ConflictMet(
        conflict_id(tenant_id, intent.uuid),
        intent.uuid,
        pushed.device_id,
        pushed.system,
        pushed.model,
        pushed.type,
        pushed.entity,
        "open" if receipt is None else "resolved",
        decision.policy or "manual",
        decision.winner,
        decision.reason,
        fields,
        known.data(pushed.type) or {},
        pushed.payload,
        known.revision,
        now_ms,
        None if receipt is None else now_ms,
        None if receipt is None else receipt["revision"],
        None if receipt is None else receipt["cursor"],
    )


def refused(intent: Intent, errors: Sequence[FieldError]) -> Settled:
    """The answer for an item that will never fit as it stands."""
    named = [{"path": one.path, "message": one.message} for one in errors]
    return Settled(rejected(intent.uuid, errors), Settlement(intent.uuid, "rejected", errors=named))


def later(intent: Intent, errors: Sequence[FieldError]) -> Settled:
    """The answer for an item that is to be sent again."""
    return Settled(answer(intent.uuid, "retry", errors), Settlement(intent.uuid, "retry"))


def failed(intent: Intent) -> Settled:
    """The answer for an item that the hub has a defect with."""
    return later(intent, [FieldError("", "the hub failed at it; send it again, and tell its operator if it stays so")])


def waiting(intent: Intent, why: str) -> Settled:
    """The answer for an item whose turn has not come."""
    return later(intent, [FieldError(WAITS, why)])


def _shown(value: Any) -> str:
    return orjson.dumps(value).decode()[:100]
