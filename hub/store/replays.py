"""Replay jobs: what was asked for, where it goes, how far it is.

    state      pause     resume    cancel      finish  fail
    running    paused    running   cancelled   done    failed
    paused     paused    running   cancelled   –       –
    done, cancelled, failed: the end

A target has at most one job that is running or paused: an index says so, not a look before the insert. Whose events it
gets is part of a target (`hub.services.replay_plan.Plan.key`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

import orjson
from sqlalchemy import select, text, update

from hub.store.database import Database
from hub.store.tables import replays
from schemas.errors import FieldError, Problem

State = Literal["running", "paused", "done", "cancelled", "failed"]
Action = Literal["pause", "resume", "cancel", "finish", "fail"]

MOVES: Final[Mapping[str, Mapping[str, State]]] = MappingProxyType(
    {
        "running": {"pause": "paused", "resume": "running", "cancel": "cancelled", "finish": "done", "fail": "failed"},
        "paused": {"pause": "paused", "resume": "running", "cancel": "cancelled"},
        "done": {"finish": "done"},
        "cancelled": {"cancel": "cancelled"},
        "failed": {"fail": "failed"},
    }
)
"""The table above; asking for what is so already changes nothing."""
ACTIVE: Final = ("running", "paused")

_INSERT: Final = text(
    "INSERT INTO replays (replay_id, target, state, spec, progress, created_ms, updated_ms) "
    "VALUES (:replay_id, :target, :state, :spec, :progress, :created_ms, :updated_ms) ON CONFLICT DO NOTHING"
)

Change = Callable[["Replay"], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Replay:
    """One job. `spec` never changes; `progress` is what its runners and its pauses left."""

    replay_id: str
    target: str
    spec: dict[str, Any]
    created_ms: int
    state: State = "running"
    progress: dict[str, Any] = field(default_factory=dict)
    updated_ms: int = 0

    @property
    def active(self) -> bool:
        """Whether it is not over."""
        return self.state in ACTIVE


class Replays:
    """The jobs. Every method raises `StoreUnavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, replay: Replay) -> tuple[Replay, bool]:
        """Write a new job down; it, or the one that has this id already, and whether it is new.

        Raises:
            Problem: `replay_active`: the target has one that is not over.
        """
        values = {
            "replay_id": replay.replay_id,
            "target": replay.target,
            "state": replay.state,
            "spec": orjson.dumps(replay.spec).decode(),
            "progress": orjson.dumps(replay.progress).decode(),
            "created_ms": replay.created_ms,
            "updated_ms": replay.created_ms,
        }
        async with self._database.writing() as connection:
            made = await connection.execute(_INSERT, values)
            if made.rowcount == 1:
                return _replay(values), True
            same = select(replays).where(replays.c.replay_id == replay.replay_id)
            held = (await connection.execute(same)).mappings().first()
            there = select(replays.c.replay_id).where(replays.c.target == replay.target, replays.c.state.in_(ACTIVE))
            running = await connection.scalar(there)
        if held is not None:
            return _replay(held), False
        where = f"the replay {running} goes there and is not over; wait for it, or cancel it"
        raise Problem("replay_active", where, [FieldError("target", where)], extra={"replay_id": running})

    async def get(self, replay_id: str) -> Replay | None:
        """One job."""
        async with self._database.reading() as connection:
            row = (await connection.execute(select(replays).where(replays.c.replay_id == replay_id))).mappings().first()
        return None if row is None else _replay(row)

    async def listed(self, limit: int, *, states: Iterable[str] | None = None) -> list[Replay]:
        """The newest jobs, newest first, of these states (None: of all)."""
        query = select(replays).order_by(replays.c.created_ms.desc(), replays.c.replay_id).limit(limit)
        if states is not None:
            query = query.where(replays.c.state.in_(list(states)))
        async with self._database.reading() as connection:
            return [_replay(row) for row in (await connection.execute(query)).mappings()]

    async def active(self) -> list[Replay]:
        """Every job that is not over, oldest first."""
        query = select(replays).where(replays.c.state.in_(ACTIVE)).order_by(replays.c.created_ms, replays.c.replay_id)
        async with self._database.reading() as connection:
            return [_replay(row) for row in (await connection.execute(query)).mappings()]

    async def move(self, replay_id: str, action: Action, now_ms: int, change: Change | None = None) -> Replay:
        """Take a job to its next state; the job as it is then. `change` gives its progress in the same transaction.

        Raises:
            Problem: `not_found`; `replay_over` when its state does not allow that.
        """

        def moved(held: Replay) -> tuple[State, dict[str, Any]]:
            state = MOVES[held.state].get(action)
            if state is None:
                raise Problem("replay_over", f"the replay {replay_id} is {held.state}; it cannot {action}")
            return state, held.progress if change is None or state == held.state else change(held)

        return await self._update(replay_id, now_ms, moved)

    async def note(self, replay_id: str, now_ms: int, change: Change) -> Replay:
        """Change a job's progress; the job as it is then.

        Raises:
            Problem: `not_found`.
        """
        return await self._update(replay_id, now_ms, lambda held: (held.state, change(held)))

    async def _update(
        self, replay_id: str, now_ms: int, change: Callable[[Replay], tuple[State, dict[str, Any]]]
    ) -> Replay:
        async with self._database.writing() as connection:
            query = select(replays).where(replays.c.replay_id == replay_id).with_for_update()
            row = (await connection.execute(query)).mappings().first()
            if row is None:
                raise Problem("not_found", f"there is no replay {replay_id[:64]}")
            held = _replay(row)
            state, progress = change(held)
            if state == held.state and progress == held.progress:
                return held
            # Two changes can be told apart, whatever the clocks of those who make them say.
            at = max(now_ms, held.updated_ms + 1)
            values = {"state": state, "progress": orjson.dumps(progress).decode(), "updated_ms": at}
            await connection.execute(update(replays).where(replays.c.replay_id == replay_id).values(**values))
            return _replay(dict(row) | values)


def _replay(row: Mapping[Any, Any]) -> Replay:
    return Replay(
        row["replay_id"],
        row["target"],
        orjson.loads(row["spec"]),
        row["created_ms"],
        row["state"],
        orjson.loads(row["progress"]),
        row["updated_ms"],
    )
