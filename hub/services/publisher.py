"""Takes events from publishers: schema, authority, enrichment, append (R24).

Nothing is delivered that is not stored: a receipt means that the event is in the log as durably as the log is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import orjson
import structlog
import uuid_utils
from prometheus_client import Counter
from pydantic import ValidationError

from hub.core import authority
from hub.log.stream_log import Append, Conflict, Outcome
from hub.log.topology import RedisError
from hub.security.tokens import Claims
from hub.services.history import History
from hub.store.database import StoreUnavailable
from hub.telemetry import Metrics
from schemas import patterns, registry, strict_json
from schemas.envelope import Draft, EventType
from schemas.errors import FieldError, Problem, invalid_event

DEFAULT_CURRENCY: Final = "JPY"
MAX_FIELDS: Final = 200
MAX_EVENT_BYTES: Final = 60 * 1024
"""An event and its frame fit one WebSocket message of 64 KiB."""

Receipt = dict[str, Any]

log = structlog.get_logger("hub.publisher")


@dataclass(frozen=True, slots=True)
class Systems:
    """The systems a deployment adds to the defaults (HUB_SYSTEMS): name → patterns of what it gets."""

    added: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def targets(self, kind: EventType, action: str) -> tuple[str, ...]:
        """The targets of a type and action by default."""
        more = (name for name, wanted in self.added.items() if _any(wanted, kind.name, action))
        return (*kind.targets, *(name for name in more if name not in kind.targets))


def _any(wanted: Iterable[str], type: str, action: str) -> bool:
    return any(patterns.matches(pattern, type, action) for pattern in wanted)


class Publisher:
    """Publishes on behalf of credentials."""

    def __init__(
        self,
        history: History,
        systems: Systems,
        metrics: Metrics,
        *,
        currency: Callable[[str], str] = lambda _: DEFAULT_CURRENCY,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._log = history.log
        self._history = history
        self.systems: Final = systems
        self._metrics = metrics
        self._currency = currency
        self._clock = clock
        self._targets: dict[tuple[str, str], tuple[str, ...]] = {}
        self._stamp = (-1, "")
        self._counters: dict[tuple[str, str], Counter] = {}
        self._conflicts: set[asyncio.Task[None]] = set()

    def submit(self, parsed: strict_json.Parsed, event: Any, claims: Claims) -> asyncio.Future[Receipt]:
        """Check one event of a parsed body and hand it to the log; events submitted in order are stored in order.

        The future gives the receipt, or fails with a `Problem`. Cancelling it does not withdraw the event.

        Raises:
            Problem: refused before anything was stored.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        receipt: asyncio.Future[Receipt] = loop.create_future()
        kind = "unknown"
        try:
            append = self.prepare(parsed, event, claims)
            kind = append.type
            self._log.post(append, partial(self._settle, receipt, append, claims, started))
        except Problem as problem:
            self._count(kind, problem.code)
            raise
        return receipt

    def _count(self, type: str, outcome: str) -> None:
        counter = self._counters.get((type, outcome))
        if counter is None:
            counter = self._counters[(type, outcome)] = self._metrics.published.labels(type, outcome)
        counter.inc()

    def prepare(self, parsed: strict_json.Parsed, event: Any, claims: Claims) -> Append:
        """Everything that is decided before the log is asked.

        Raises:
            Problem: `invalid_event`, `forbidden` or `not_authority`, naming the fields.
        """
        if errors := parsed.refusals(event):
            raise invalid_event(errors)
        if not isinstance(event, dict):
            raise invalid_event([FieldError("", "an event is a JSON object with type, action and data")])
        try:
            draft: Draft = Draft.__pydantic_validator__.validate_python(event)
        except ValidationError as error:
            raise invalid_event(registry.field_errors(error)) from None
        kind = registry.require_known(draft.type, draft.action)
        tenant_id = self._tenant(draft, claims)
        if not claims.may("publish", f"{kind.name}.{draft.action}"):
            raise Problem("forbidden", f"the token lacks the scope publish:{kind.name}.{draft.action}")
        if len(draft.data) > MAX_FIELDS:
            # Before each of them is made an error of its own.
            raise invalid_event(
                [FieldError("data", f"has {len(draft.data)} fields; no type has more than {MAX_FIELDS}")]
            )
        version = kind.newest if draft.schema_version is None else draft.schema_version
        if errors := registry.validate_data(kind, version, draft.data):
            raise invalid_event(errors)
        refused = authority.refusal(kind, draft.action, claims.system, draft.data)
        if refused is not None:
            raise Problem("not_authority", f"{refused.path}: {refused.message}", [refused])
        entity = kind.entity_of(draft.data)
        if draft.entity is not None and draft.entity != entity:
            raise invalid_event([FieldError("entity", f"the data says {entity}; leave it out")])
        return self._enrich(draft, kind, version, tenant_id, entity, claims)

    @staticmethod
    def _tenant(draft: Draft, claims: Claims) -> str:
        if draft.tenant_id is not None:
            claims.require_tenant(draft.tenant_id)
            return draft.tenant_id
        if len(claims.tenants) == 1 and not claims.all_tenants:
            return next(iter(claims.tenants))
        raise invalid_event([FieldError("tenant_id", "the token holds several tenants; name one")])

    def _enrich(
        self, draft: Draft, kind: EventType, version: int, tenant_id: str, entity: str, claims: Claims
    ) -> Append:
        now_ms, stamp = self._now()
        event_id = draft.event_id or str(uuid_utils.uuid7())
        data = draft.data
        data["origin_system"] = data.get("origin_system") or claims.system
        data["updated_by_system"] = claims.system
        data["synced_at"] = stamp
        if version in kind.priced and data.get("currency") is None:
            data["currency"] = self._currency(tenant_id)
        event: dict[str, Any] = {
            "event_id": event_id,
            "schema_version": version,
            "tenant_id": tenant_id,
            "type": kind.name,
            "action": draft.action,
            "priority": draft.priority or kind.priority,
            "sync_mode": draft.sync_mode or kind.sync_mode,
            "targets": self._narrowed(draft, kind),
            "delivery_guarantee": draft.delivery_guarantee or kind.guarantee,
            "occurred_at": draft.occurred_at or stamp,
            "recorded_at": stamp,
            "entity": entity,
        }
        if draft.expected_revision is not None:
            event["expected_revision"] = draft.expected_revision
        device_id = draft.device_id or claims.device_id
        if device_id is not None:
            event["device_id"] = device_id
        if draft.created_offline:
            event["created_offline"] = True
        for name in ("temp_id", "correlation_id", "causation_id", "traceparent"):
            if (value := getattr(draft, name)) is not None:
                event[name] = value
        event["data"] = data
        # The script that appends knows the revision; it writes the number and the closing brace.
        head = orjson.dumps(event)[:-1] + b',"revision":'
        if len(head) > MAX_EVENT_BYTES:
            raise Problem("too_large", f"the event is {len(head)} bytes, the limit is {MAX_EVENT_BYTES}")
        return Append(
            tenant_id,
            event_id,
            entity,
            kind.name,
            draft.action,
            now_ms,
            head,
            draft.expected_revision,
        )

    def _now(self) -> tuple[int, str]:
        """Unix ms, and the same as an event carries it; the text is made once a millisecond."""
        now = self._clock()
        now_ms = int(now.timestamp() * 1000)
        if self._stamp[0] != now_ms:
            self._stamp = (now_ms, now.isoformat(timespec="milliseconds").replace("+00:00", "Z"))
        return self._stamp

    def _narrowed(self, draft: Draft, kind: EventType) -> tuple[str, ...]:
        key = (kind.name, draft.action)
        whole = self._targets.get(key)
        if whole is None:
            whole = self._targets[key] = self.systems.targets(kind, draft.action)
        if draft.targets is None:
            return whole
        for index, target in enumerate(draft.targets):
            if target not in whole:
                allowed = ", ".join(whole)
                message = f"{target} does not get {kind.name}.{draft.action}; targets can only be narrowed: {allowed}"
                raise invalid_event([FieldError(f"targets.{index}", message)])
        return tuple(dict.fromkeys(draft.targets))

    def _settle(
        self,
        receipt: asyncio.Future[Receipt],
        append: Append,
        claims: Claims,
        started: float,
        outcome: Outcome | Problem,
    ) -> None:
        if isinstance(outcome, Problem):
            self._count(append.type, outcome.code)
            if not receipt.done():
                receipt.set_exception(outcome)
        elif isinstance(outcome, Conflict):
            self._count(append.type, "conflict")
            task = asyncio.create_task(self._conflict(receipt, append, claims, outcome))
            self._conflicts.add(task)
            task.add_done_callback(self._conflicts.discard)
        else:
            self._count(append.type, "duplicate" if outcome.duplicate else "stored")
            self._metrics.publish_seconds.observe(receipt.get_loop().time() - started)
            if not receipt.done():
                receipt.set_result(
                    {
                        "event_id": append.event_id,
                        "cursor": outcome.cursor,
                        "sequence": outcome.sequence,
                        "revision": outcome.revision,
                        "duplicate": outcome.duplicate,
                    }
                )

    async def _conflict(
        self, receipt: asyncio.Future[Receipt], append: Append, claims: Claims, outcome: Conflict
    ) -> None:
        """Refuse, with the latest state of the entity, as far as the token may read it."""
        latest: dict[str, Any] = {"revision": outcome.revision, "data": None}
        try:
            entry = None if outcome.id is None else await self._history.at(append.tenant_id, outcome.id)
            if (
                entry is not None
                and entry.readable_by(claims.system)
                and claims.may("subscribe", f"{entry.type}.{entry.action}")
            ):
                latest["data"] = orjson.loads(entry.json(claims.view))["data"]
        except (RedisError, OSError, StoreUnavailable) as error:
            log.warning("latest_not_read", error=str(error) or type(error).__name__, event_id=append.event_id)
        detail = f"{append.entity} is at revision {outcome.revision}, not {append.expected_revision}"
        if not receipt.done():
            receipt.set_exception(Problem("conflict", detail, extra={"event_id": append.event_id, "latest": latest}))

    async def aclose(self) -> None:
        """Await the refusals that are still being written."""
        await asyncio.gather(*self._conflicts, return_exceptions=True)
