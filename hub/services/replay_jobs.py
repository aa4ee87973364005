"""Replays as operators ask for them: looked at first, made once, paused, resumed, cancelled."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final
from uuid import uuid4

from hub.core.webhooks import Endpoint
from hub.log.tenants import Tenants
from hub.security.tokens import Claims
from hub.services.replay_plan import Plan, instant, plan
from hub.services.replay_reading import Counts, Reading
from hub.services.replay_watch import ReplayWatch, holds, kept, pace_of
from hub.store.replays import Action, Replay, Replays
from schemas.errors import Problem, invalid_request
from schemas.replay import ReplayRequest, Selection, Target
from schemas.types import HUB, SYSTEMS

OWN_GROUPS: Final = frozenset({"archiver", "webhooks"})
"""The hub's own consumer groups, which read no redrive stream."""
LONGEST_MS: Final = 31 * 86_400_000
"""A replay that would take longer is a slip of the speed."""
LISTED: Final = 200
_ID: Final = re.compile(r"[0-9a-f-]{36}")


class ReplayJobs:
    """What the routes of `/replays` call."""

    def __init__(
        self,
        reading: Reading,
        watch: ReplayWatch,
        tenants: Tenants,
        groups: Callable[[], Awaitable[list[str]]],
        systems: Collection[str],
    ) -> None:
        """`groups`: the consumer groups there are. `systems`: those beside the three."""
        self.reading = reading
        self._replays: Replays = watch.replays
        self._webhooks = reading.history.store.webhooks
        self._watch = watch
        self._tenants = tenants
        self._groups = groups
        self._systems = frozenset(SYSTEMS) | frozenset(systems)

    async def plan(self, claims: Claims, asked: Selection) -> Plan:
        """What a selection means for a token.

        Raises:
            Problem: as `hub.services.replay_plan.plan`.
        """
        return await plan(self.reading.history, self._tenants, claims, asked)

    async def look(self, claims: Claims, asked: ReplayRequest) -> dict[str, Any]:
        """A dry run: what would go out, and how long that would take.

        Raises:
            Problem: the replay could not be made.
        """
        _, counts, takes = await self._prepared(claims, asked)
        target = None if asked.target is None else asked.target.model_dump(exclude_none=True)
        return {"dry_run": True, "target": target} | _counted(counts, takes)

    async def create(self, claims: Claims, asked: ReplayRequest) -> tuple[dict[str, Any], bool]:
        """Make a replay; it, and whether it is new: the same request again finds what the first one made.

        Raises:
            Problem: it is not allowed, its range is empty, its target has another one that is not over.
        """
        if asked.target is None:
            raise invalid_request("target", "is missing: where do the events go?")
        words = asked.model_dump(by_alias=True, exclude_none=True, exclude={"dry_run", "replay_id"})
        if asked.replay_id is not None and (held := await self._replays.get(asked.replay_id)) is not None:
            return self._again(claims, held, words), False
        chosen, counts, _ = await self._prepared(claims, asked)
        if not counts.events:
            raise _empty(asked)
        replay = Replay(
            asked.replay_id or str(uuid4()),
            chosen.key(asked.target.text),
            {
                "asked": words,
                "by": claims.system,
                "plan": chosen.as_json(),
                "counts": {
                    "by_type": dict(counts.by_type),
                    "first_ms": counts.first_ms,
                    "last_ms": counts.last_ms,
                    "events": counts.events,
                },
            },
            self._watch.now(),
        )
        made, new = await self._replays.create(replay)
        if not new:
            return self._again(claims, made, words), False
        self._watch.saw(made)
        return self.shown(made), True

    async def listed(self, claims: Claims) -> list[dict[str, Any]]:
        """The newest replays of the token's tenants, newest first."""
        found = await self._replays.listed(LISTED)
        return [self.shown(one) for one in found if holds(claims, one)]

    async def get(self, claims: Claims, replay_id: str) -> dict[str, Any]:
        """One replay.

        Raises:
            Problem: `not_found`, also for one of a tenant that the token does not hold.
        """
        return self.shown(await self._held(claims, replay_id))

    async def move(self, claims: Claims, replay_id: str, action: Action) -> dict[str, Any]:
        """Pause, resume or cancel one; asking twice is asking once.

        Raises:
            Problem: `not_found`; `replay_over`.
        """
        await self._held(claims, replay_id)
        now = self._watch.now()

        def change(held: Replay) -> dict[str, Any]:
            pace = pace_of(held)
            if action == "cancel":
                return held.progress | kept(pace.resumed(now)) | {"finished_ms": now}
            return held.progress | kept(pace.paused(now) if action == "pause" else pace.resumed(now))

        moved = await self._replays.move(replay_id, action, now, change)
        self._watch.saw(moved)
        return self.shown(moved)

    def shown(self, replay: Replay) -> dict[str, Any]:
        """A replay as the API says it."""
        counts, progress = replay.spec["counts"], replay.progress
        pace, now = pace_of(replay), self._watch.now()
        done, total = int(progress.get("events", 0)), int(counts["events"])
        left = pace.left_ms(now, counts["last_ms"], done, total) if replay.active and pace.started_ms else None
        shown = {
            "replay_id": replay.replay_id,
            "state": replay.state,
            **replay.spec["asked"],
            **_counted(_counts(counts), pace.takes_ms(counts["last_ms"])),
            "progress": {
                "events": done,
                "share": round(done / total, 4) if total else 1.0,
                "reached": instant(progress.get("reached_ms")),
                "eta_seconds": None if left is None else round(left / 1000, 1),
                "waiting_for_group": progress.get("waiting", 0),
            },
            "created_at": instant(replay.created_ms),
            "started_at": instant(pace.started_ms),
            "finished_at": instant(progress.get("finished_ms")),
        }
        return shown | ({"detail": progress["detail"]} if "detail" in progress else {})

    async def _prepared(self, claims: Claims, asked: ReplayRequest) -> tuple[Plan, Counts, int | None]:
        system = HUB
        if asked.target is not None:
            await self._check(asked.target)
            system = asked.target.system or HUB
            if asked.target.webhook is not None:
                endpoint = await self._endpoint(claims, asked.target.webhook)
                if asked.tenants not in (None, [endpoint.tenant_id]):
                    raise invalid_request(
                        "tenants", f"the endpoint is {endpoint.tenant_id}'s; no other's events go there"
                    )
                asked, system = asked.model_copy(update={"tenants": [endpoint.tenant_id]}), endpoint.system
        chosen = await self.plan(claims, asked)
        counts = await self.reading.count(chosen, system)
        takes = 0
        if counts.first_ms is not None and counts.last_ms is not None and chosen.speed is not None:
            takes = round((counts.last_ms - counts.first_ms) / chosen.speed)
            if takes > LONGEST_MS:
                raise invalid_request(
                    "speed", f"this would take {takes / 86_400_000:.0f} days; go faster, or narrow the range"
                )
        return chosen, counts, None if chosen.speed is None else takes

    async def _check(self, target: Target) -> None:
        if target.webhook is not None:
            return
        if target.group is not None:
            if target.group in OWN_GROUPS:
                raise invalid_request(
                    "target.group", f"{target.group} is the hub's own group; nothing is replayed to it"
                )
            groups = [name for name in await self._groups() if name not in OWN_GROUPS]
            if target.group not in groups:
                raise invalid_request("target.group", f"there is no group {target.group}; one of: {', '.join(groups)}")
        elif target.system not in self._systems:
            known = ", ".join(sorted(self._systems))
            raise invalid_request("target.system", f"there is no system {target.system}; one of: {known}")

    async def _endpoint(self, claims: Claims, endpoint_id: str) -> Endpoint:
        found = await self._webhooks.get(endpoint_id)
        if found is None or not claims.holds(found.tenant_id):
            raise invalid_request("target.webhook", f"there is no webhook endpoint {endpoint_id}")
        if not found.enabled:
            raise invalid_request("target.webhook", "the endpoint is disabled; enable it first")
        return found

    async def _held(self, claims: Claims, replay_id: str) -> Replay:
        # What is no id of a replay is not asked for: the store may not even take it as text.
        found = await self._replays.get(replay_id) if _ID.fullmatch(replay_id) else None
        if found is None or not holds(claims, found):
            raise Problem("not_found", f"there is no replay {replay_id[:64]}")
        return found

    def _again(self, claims: Claims, held: Replay, words: dict[str, Any]) -> dict[str, Any]:
        if held.spec["asked"] != words or not holds(claims, held):
            raise invalid_request("replay_id", f"{held.replay_id} is another replay's")
        return self.shown(held)


def _counts(kept: dict[str, Any]) -> Counts:
    counts = Counts(first_ms=kept["first_ms"], last_ms=kept["last_ms"])
    counts.by_type.update(kept["by_type"])
    return counts


def _counted(counts: Counts, takes_ms: int | None) -> dict[str, Any]:
    span = None if counts.first_ms is None or counts.last_ms is None else (counts.last_ms - counts.first_ms) / 1000
    return {
        "events": counts.events,
        "by_type": dict(sorted(counts.by_type.items())),
        "first": instant(counts.first_ms),
        "last": instant(counts.last_ms),
        "span_seconds": span,
        "takes_seconds": None if takes_ms is None else takes_ms / 1000,
    }


def _empty(asked: ReplayRequest) -> Problem:
    given = {"from": asked.from_, "to": asked.to, "until": asked.until, "after": asked.after}
    given |= {"entities": asked.entities, "patterns": asked.patterns}  # type: ignore[dict-item]
    field = next((name for name, value in given.items() if value is not None), "tenants")
    who = "" if asked.target is None or asked.target.system is None else f" that {asked.target.system} may see"
    return invalid_request(field, f"the range is empty: no event is selected{who}")
