"""Webhook endpoints as systems and operators manage them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import orjson
import uuid_utils

from hub.core.delivery import instant
from hub.core.entry import MASKED, Entry
from hub.core.webhooks import Endpoint
from hub.security.addresses import Target, parse_url, refusal
from hub.security.tokens import ALL, Claims
from hub.security.webhook_signatures import check_secret, new_secret
from hub.services.history import History
from hub.services.webhook_attempts import message
from hub.services.webhook_sender import WebhookSender
from schemas.cursor import ZERO, Cursor, StreamId
from schemas.errors import Problem, invalid_request
from schemas.registry import EVENT_TYPES
from schemas.types import HUB, SYSTEMS, read_instant
from schemas.webhooks import RecoverRequest, WebhookChange, WebhookRequest

MAX_ENDPOINTS: Final = 100
"""Of one tenant: each is asked about every event of its own."""
ROTATION_MS: Final = 24 * 3_600_000
"""How long the old secret signs beside the new one."""
LOOK_UP_S: Final = 3.0
MAX_TESTS: Final = 32
"""Tests under way at a time."""
UUID_FORM: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
SKEW_MS: Final = 60_000
"""How far apart the clocks of hub and log may be."""

Resolve = Callable[[str, int], Awaitable[list[str]]]


class WebhookDesk:
    """What the routes of `/webhooks` call."""

    def __init__(
        self,
        history: History,
        sender: WebhookSender,
        resolve: Resolve,
        *,
        systems: Collection[str],
        allow_hosts: Collection[str],
        changed: Callable[[], Awaitable[None]],
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`systems`: those beside the three. `changed` is awaited after every change."""
        self._history = history
        self._webhooks = history.store.webhooks
        self._queue = history.store.webhook_queue
        self._replays = history.store.replays
        self._testing: set[str] = set()
        self._sender = sender
        self._resolve = resolve
        self._systems = frozenset(SYSTEMS) | frozenset(systems)
        self._allow_hosts = allow_hosts
        self._changed = changed
        self._wall = wall

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)

    # -- making and changing --------------------------------------------------------------------------------------

    async def create(self, claims: Claims, asked: WebhookRequest) -> dict[str, Any]:
        """Make an endpoint; with its secret, which is not shown again.

        Raises:
            Problem: `forbidden`; `invalid_request`, naming the field.
        """
        tenant_id = self._tenant(claims, asked.tenant_id)
        system = self._system(claims, asked.system)
        patterns = self._patterns(claims, asked.patterns)
        target = await self._target(asked.url)
        secret = self._secret(asked.secret)
        now = self._now_ms()
        endpoint = Endpoint(
            str(uuid_utils.uuid7()),
            tenant_id,
            system,
            target.url,
            patterns,
            asked.patterns is None,
            secret,
            ZERO,
            now,
            now,
            description=asked.description,
            payload=asked.payload,
            view=claims.view,
            rate_per_s=asked.rate_limit,
            recover=await self._present(tenant_id),
        )
        if not await self._webhooks.create(endpoint, most=MAX_ENDPOINTS):
            raise invalid_request(
                "url", f"the property has {MAX_ENDPOINTS} endpoints, which is the limit; delete one first"
            )
        await self._changed()
        return self.shown(endpoint, 0) | {"secret": secret}

    async def change(self, claims: Claims, endpoint_id: str, asked: WebhookChange) -> dict[str, Any]:
        """Change what is named.

        Raises:
            Problem: `not_found`; `forbidden`; `invalid_request`, naming the field.
        """
        held = await self._held(claims, endpoint_id)
        named = asked.model_fields_set
        values: dict[str, Any] = {"updated_ms": self._now_ms()}
        if asked.url is not None:
            values["url"] = (await self._target(asked.url)).url
            if not claims.may("subscribe", ALL):
                await self._no_replay(endpoint_id)
        if "patterns" in named:
            values["patterns"] = self._patterns(claims, asked.patterns)
            values["critical_only"] = asked.patterns is None
        if "rate_limit" in named:
            values["rate_per_s"] = asked.rate_limit
        for name in ("payload", "description"):
            if name in named:
                values[name] = getattr(asked, name)
        present = await self._present(held.tenant_id)

        def change(one: Endpoint) -> Endpoint:
            # On what it is now: another request may have been faster.
            _require(claims, one, redirects=asked.url is not None or "patterns" in named)
            now = replace(one, **values)
            if asked.state is None or asked.state == one.state:
                return now
            if asked.state == "disabled":
                return replace(now, state="disabled", reason="by hand")
            # From now on; what was missed meanwhile is a matter of `recover`.
            begin = present if one.recover is None else min(present, one.recover)
            return replace(
                now, state="enabled", reason=None, recover=begin, until=None, failing_ms=None, last_error=None
            )

        return await self._changed_to(endpoint_id, change)

    async def _no_replay(self, endpoint_id: str) -> None:
        """Refuse while a replay goes to an endpoint: its events are its own, and may be more than the patterns name."""
        active = [
            one for one in await self._replays.active() if one.spec["asked"]["target"].get("webhook") == endpoint_id
        ]
        if active or await self._queue.replayed(endpoint_id):
            raise Problem("conflict", "a replay goes there; cancel it, or use a token with the scope subscribe:*")

    async def _changed_to(self, endpoint_id: str, change: Callable[[Endpoint], Endpoint]) -> dict[str, Any]:
        now = await self._webhooks.change(endpoint_id, change)
        if now is None:
            raise _missing(endpoint_id)
        await self._changed()
        return await self._shown(now)

    async def delete(self, claims: Claims, endpoint_id: str) -> None:
        """Remove one, with everything it is still owed.

        Raises:
            Problem: `not_found`.
        """
        _require(claims, await self._held(claims, endpoint_id))
        if not await self._webhooks.delete(endpoint_id):
            raise _missing(endpoint_id)
        await self._changed()

    async def rotate(self, claims: Claims, endpoint_id: str, secret: str | None) -> dict[str, Any]:
        """Give it another secret; for a day messages are signed with both.

        Raises:
            Problem: `not_found`; `forbidden`; `invalid_request`: the secret is no good.
        """
        await self._held(claims, endpoint_id)
        new, now = self._secret(secret), self._now_ms()

        def change(one: Endpoint) -> Endpoint:
            _require(claims, one, redirects=True)
            return replace(one, secret=new, old_secret=one.secret, old_until_ms=now + ROTATION_MS, updated_ms=now)

        shown = await self._changed_to(endpoint_id, change)
        return shown | {"secret": new, "old_secret_until": instant(now + ROTATION_MS)}

    async def recover(self, claims: Claims, endpoint_id: str, asked: RecoverRequest) -> dict[str, Any]:
        """Send again what lies after a cursor, or was recorded since a time, up to now.

        Raises:
            Problem: `not_found`; `forbidden`; `invalid_request`; `invalid_cursor`; `conflict`: the endpoint is
                disabled.
        """
        held = await self._held(claims, endpoint_id)
        place, gap = await self._since(held.tenant_id, asked)
        until = (await self._history.heads([held.tenant_id]))[held.tenant_id]

        def change(one: Endpoint) -> Endpoint:
            _require(claims, one, redirects=True)
            if not one.enabled:
                raise Problem("conflict", "the endpoint is disabled; enable it first, with PATCH and state: enabled")
            begin = place if one.recover is None else min(place, one.recover)
            # One that was not adopted yet is looked through up to where it will be.
            end = None if not one.adopted else max(until.id, one.until or ZERO)
            return replace(one, recover=begin, until=end)

        shown = await self._changed_to(endpoint_id, change)
        found = {"recovering_until": self._history.cursor(held.tenant_id, until)}
        return shown | found | ({} if gap is None else {"gap": gap})

    async def _since(self, tenant_id: str, asked: RecoverRequest) -> tuple[StreamId, str | None]:
        if (asked.after is None) == (asked.since is None):
            raise invalid_request("after", "give either after, a cursor, or since, a time")
        if asked.after == "earliest":
            return (await self._history.floors([tenant_id]))[tenant_id].id, None
        if asked.after is not None:
            (start,) = await self._history.resolve({tenant_id: Cursor.decode(asked.after, tenant_id)})
            if start.gap == "future":
                raise Problem("invalid_cursor", "the cursor is past the end of the history")
            return start.head.id, start.gap
        moment = int(read_instant(asked.since).timestamp() * 1000)
        if moment > self._now_ms():
            raise invalid_request("since", "is in the future")
        return StreamId(max(1, moment), 0).previous, None

    async def test(self, claims: Claims, endpoint_id: str) -> dict[str, Any]:
        """Send a sample, signed as every message is, and show what comes back. It is no event, and in no history.

        Raises:
            Problem: `not_found`; `rate_limited`: one test of an endpoint at a time, and some of all.
        """
        endpoint = await self._held(claims, endpoint_id)
        if endpoint_id in self._testing or len(self._testing) >= MAX_TESTS:
            raise Problem("rate_limited", "a test is under way; wait for its answer")
        now = self._now_ms()
        headers, body = message(endpoint, _sample(endpoint, now), now, 1)
        self._testing.add(endpoint_id)
        try:
            answer = await self._sender.send(endpoint.url, headers | {"hub-test": "true"}, body)
        finally:
            self._testing.discard(endpoint_id)
        return {
            "delivered": answer.kind == "delivered",
            "outcome": answer.kind,
            "status": answer.status,
            "seconds": round(answer.seconds, 3),
            "error": answer.error,
            "response": answer.body.decode("utf-8", "replace"),
            "webhook_id": headers["webhook-id"],
        }

    # -- looking --------------------------------------------------------------------------------------------------

    async def listed(self, claims: Claims, tenants: Collection[str] | None) -> list[dict[str, Any]]:
        """Those that the token may manage."""
        found = [one for one in await self._webhooks.listed(tenants) if _manages(claims, one)]
        waiting = await self._webhooks.waiting([one.endpoint_id for one in found])
        return [self.shown(one, waiting.get(one.endpoint_id, 0)) for one in found]

    async def get(self, claims: Claims, endpoint_id: str) -> dict[str, Any]:
        """One of them.

        Raises:
            Problem: `not_found`, also for one that the token may not manage.
        """
        return await self._shown(await self._held(claims, endpoint_id))

    async def _shown(self, endpoint: Endpoint) -> dict[str, Any]:
        waiting = await self._webhooks.waiting([endpoint.endpoint_id])
        return self.shown(endpoint, waiting.get(endpoint.endpoint_id, 0))

    @staticmethod
    def shown(endpoint: Endpoint, waiting: int) -> dict[str, Any]:
        """An endpoint as the API says it, without its secret."""

        def moment(ms: int | None) -> str | None:
            return None if ms is None else instant(ms)

        return {
            "id": endpoint.endpoint_id,
            "tenant_id": endpoint.tenant_id,
            "system": endpoint.system,
            "url": endpoint.url,
            "description": endpoint.description,
            "patterns": list(endpoint.patterns),
            "critical_only": endpoint.critical_only,
            "payload": endpoint.payload,
            "view": endpoint.view,
            "rate_limit": endpoint.rate_per_s,
            "state": endpoint.state,
            "reason": endpoint.reason,
            "failing_since": moment(endpoint.failing_ms),
            "last_error": endpoint.last_error,
            "last_success_at": moment(endpoint.succeeded_ms),
            "waiting": waiting,
            "recovering": endpoint.recover is not None and endpoint.until is not None,
            "created_at": instant(endpoint.created_ms),
            "updated_at": instant(endpoint.updated_ms),
        }

    async def _held(self, claims: Claims, endpoint_id: str) -> Endpoint:
        found = await self._webhooks.get(endpoint_id) if UUID_FORM.fullmatch(endpoint_id) else None
        if found is None or not _manages(claims, found):
            raise _missing(endpoint_id)
        return found

    # -- what is allowed ------------------------------------------------------------------------------------------

    @staticmethod
    def _tenant(claims: Claims, named: str | None) -> str:
        if named is not None:
            claims.require_tenant(named)
            return named
        if len(claims.tenants) == 1 and not claims.all_tenants:
            return next(iter(claims.tenants))
        raise invalid_request("tenant_id", "the token holds several tenants; name one")

    def _system(self, claims: Claims, named: str | None) -> str:
        system = named or claims.system
        if system == HUB:
            raise invalid_request("system", f"name the system whose endpoint it is: {', '.join(sorted(self._systems))}")
        if system != claims.system and not claims.has("ops"):
            raise Problem(
                "forbidden", f"only {system} itself, or a token with the scope ops, makes endpoints of {system}"
            )
        if system not in self._systems:
            raise invalid_request("system", f"there is no system {system}; one of: {', '.join(sorted(self._systems))}")
        return system

    @staticmethod
    def _patterns(claims: Claims, asked: Collection[str] | None) -> tuple[str, ...]:
        allowed = sorted(claims.patterns("subscribe"))
        if asked is None:
            if not allowed:
                raise Problem("forbidden", "the token has no subscribe: scope, so nothing may be sent in its name")
            return tuple(allowed)
        for index, pattern in enumerate(asked):
            kind = pattern.partition(".")[0]
            if pattern != ALL and kind not in EVENT_TYPES:
                raise invalid_request(f"patterns.{index}", f"there is no type {kind}; one of: {', '.join(EVENT_TYPES)}")
            if not claims.may("subscribe", pattern):
                raise Problem("forbidden", f"the token lacks the scope subscribe:{pattern}")
        return tuple(dict.fromkeys(asked))

    @staticmethod
    def _secret(given: str | None) -> str:
        if given is None:
            return new_secret()
        try:
            check_secret(given)
        except ValueError as error:
            raise invalid_request("secret", str(error)) from None
        return given

    async def _target(self, url: str) -> Target:
        """A URL that may be called, as far as can be said now: it is judged again at each connection."""
        try:
            target = parse_url(url, self._allow_hosts)
        except ValueError as error:
            raise invalid_request("url", str(error)) from None
        if target.is_address or target.host in self._allow_hosts:
            return target
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(LOOK_UP_S):
                for address in await self._resolve(target.host, target.port):
                    if (why := refusal(address)) is not None:
                        raise invalid_request("url", f"its host leads to {why}; webhooks go to public addresses")
        return target

    async def _present(self, tenant_id: str) -> StreamId:
        """The end of a tenant's history: only what comes later is an endpoint's that is made now."""
        head = (await self._history.heads([tenant_id]))[tenant_id]
        return head.id if head.id != ZERO else StreamId(self._now_ms() - SKEW_MS, 0)


def _manages(claims: Claims, endpoint: Endpoint) -> bool:
    return claims.holds(endpoint.tenant_id) and (claims.has("ops") or endpoint.system == claims.system)


def _require(claims: Claims, endpoint: Endpoint, *, redirects: bool = False) -> None:
    """Refuse a token that may see less than what goes to an endpoint. `redirects`: what goes there may come elsewhere
    by this, or its signature into other hands; then the scope `ops` is not enough.

    Raises:
        Problem: `forbidden`.
    """
    if not redirects and claims.has("ops"):
        return
    for pattern in endpoint.patterns:
        if not claims.may("subscribe", pattern):
            raise Problem("forbidden", f"the endpoint gets {pattern}; the token lacks the scope subscribe:{pattern}")
    if claims.view == MASKED and endpoint.view != MASKED:
        raise Problem("forbidden", "the endpoint gets what identifies guests; the token is masked")


def _sample(endpoint: Endpoint, now_ms: int) -> Entry:
    event_id, at = str(uuid_utils.uuid7()), instant(now_ms)
    entity = f"system:webhook-{endpoint.endpoint_id}"
    event = {
        "event_id": event_id,
        "schema_version": 1,
        "tenant_id": endpoint.tenant_id,
        "type": "system",
        "action": "notice",
        "priority": "MEDIUM",
        "sync_mode": "realtime",
        "targets": [endpoint.system],
        "delivery_guarantee": "at_least_once",
        "occurred_at": at,
        "recorded_at": at,
        "entity": entity,
        "data": {
            "topic": f"webhook-{endpoint.endpoint_id}",
            "severity": "info",
            "message": "A test of this webhook endpoint",
            "detail": {"test": True},
            "origin_system": HUB,
            "updated_by_system": HUB,
            "synced_at": at,
        },
        "revision": 0,
    }
    raw = orjson.dumps(event)
    return Entry(ZERO, 0, endpoint.tenant_id, 0, 0, "system", "notice", entity, event_id, now_ms, raw)


def _missing(endpoint_id: str) -> Problem:
    return Problem("not_found", f"there is no webhook endpoint {endpoint_id[:64]}")
