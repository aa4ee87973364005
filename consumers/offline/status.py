"""What the desk shows of its state: banner, icon, footer (R97-R100), and the stream of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from consumers.offline.items import Counts

State = Literal[
    "local_error",
    "session_expired",
    "offline",
    "recovering",
    "syncing",
    "failed",
    "conflict",
    "waiting",
    "all_synced",
    "online",
]
"""In this order: of several that hold, the first is shown. waiting: online, with items on their way. online: nothing
else is known yet."""
Color = Literal["red", "amber", "green"]
Icon = Literal["offline", "warning", "syncing", "waiting", "check"]

NOT_AVAILABLE: Final = "オフライン中のため使用不可"
"""Beside a function that needs the hub, greyed, while the desk is offline (R98)."""
WAITING_MARK: Final = "同期待ち"
"""Beside a record with changes that the hub does not have yet (R98)."""

HISTORY: Final = 64
"""States that a follower who is slow may be behind; beyond it, it misses the oldest of them and never the newest."""


class Text(NamedTuple):
    """A text in Japanese and English."""

    ja: str
    en: str


class Look(NamedTuple):
    """How a state looks. `banner` None: no banner."""

    color: Color
    icon: Icon
    banner: Text | None


LOOKS: Final[MappingProxyType[State, Look]] = MappingProxyType(
    {
        "local_error": Look("red", "warning", Text("保存エラー・データ修復", "Not saved: repair the local data")),
        "session_expired": Look(
            "amber", "warning", Text("セッション期限切れ・復旧時再認証", "Session expired: sign in again on recovery")
        ),
        "offline": Look("red", "offline", Text("オフライン中", "Offline")),
        "recovering": Look("green", "syncing", Text("オンライン復旧・同期開始", "Online again: syncing")),
        "syncing": Look("green", "syncing", None),
        "failed": Look("amber", "warning", Text("同期失敗", "Sync failed")),
        "conflict": Look("amber", "warning", Text("競合の確認が必要です", "Conflicts wait for your decision")),
        "waiting": Look("green", "waiting", None),
        "all_synced": Look("green", "check", Text("全データ同期完了", "All data synced")),
        "online": Look("green", "check", None),
    }
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the state follows from. `done` of `total` items are pushed while `syncing` (`total` None: not known).

    `problem` is why the last sync failed, `local_error` why the desk's database does; `synced`: a sync has come to its
    end since the line is whole.
    """

    online: bool = False
    recovering: bool = False
    syncing: bool = False
    done: int = 0
    total: int | None = None
    synced: bool = False
    session_expired: bool = False
    problem: str | None = None
    local_error: str | None = None
    counts: Counts = field(default_factory=Counts)


@dataclass(frozen=True, slots=True)
class Status:
    """One state, as it is shown. `footer` is the sync indicator on every screen (R99); `detail` says why."""

    state: State
    online: bool
    color: Color
    icon: Icon
    banner: Text | None
    footer: Text
    detail: Text | None
    done: int
    total: int | None
    counts: Counts


def status_of(facts: Facts) -> Status:
    """The state, and how it looks. Pure."""
    state = _state(facts)
    look = LOOKS[state]
    syncing = state in ("recovering", "syncing")
    return Status(
        state,
        facts.online,
        look.color,
        look.icon,
        look.banner,
        _footer(state, facts),
        _detail(state, facts),
        facts.done if syncing else 0,
        facts.total if syncing else None,
        facts.counts,
    )


def _state(facts: Facts) -> State:
    counts = facts.counts
    held: tuple[tuple[bool, State], ...] = (
        (facts.local_error is not None, "local_error"),
        (facts.session_expired, "session_expired"),
        (not facts.online, "offline"),
        (facts.recovering, "recovering"),
        (facts.syncing, "syncing"),
        (facts.problem is not None or counts.failed > 0, "failed"),
        (counts.conflict > 0, "conflict"),
        (counts.waiting > 0, "waiting"),
        (facts.synced, "all_synced"),
    )
    return next((state for holds, state in held if holds), "online")


def _detail(state: State, facts: Facts) -> Text | None:
    counts = facts.counts
    if (told := {"local_error": facts.local_error, "failed": facts.problem}.get(state)) is not None:
        return Text(told, told)
    if state != "failed":
        return None
    behind = (
        Text(f"（{WAITING_MARK} {counts.waiting}件）", f" ({counts.waiting} waiting)")
        if counts.waiting
        else Text("", "")
    )
    failed = counts.failed
    return Text(f"{failed}件の同期に失敗しました{behind.ja}", f"{failed} operations could not be synced{behind.en}")


def _footer(state: State, facts: Facts) -> Text:
    counts = facts.counts
    waiting = counts.waiting
    behind = Text(f"・{WAITING_MARK} {waiting}件", f", {waiting} waiting") if waiting else Text("", "")
    match state:
        case "syncing" | "recovering" if facts.total:
            return Text(f"同期中 {facts.done}/{facts.total}", f"Syncing {facts.done}/{facts.total}")
        case "syncing" | "recovering":
            return Text("同期中", "Syncing")
        case "failed" if counts.failed:
            return Text(f"同期失敗 {counts.failed}件{behind.ja}", f"{counts.failed} failed{behind.en}")
        case "failed":
            return Text(f"同期失敗・{WAITING_MARK} {waiting}件", f"Sync failed, {waiting} waiting")
        case "conflict":
            return Text(f"競合 {counts.conflict}件{behind.ja}", f"{counts.conflict} conflicts{behind.en}")
        case _ if waiting or state in ("offline", "session_expired", "local_error"):
            return Text(f"{WAITING_MARK} {waiting}件", f"{waiting} waiting")
        case _:
            return Text("同期済み" if facts.synced else "オンライン", "Synced" if facts.synced else "Online")


class StatusStream:
    """The desk's state, now and as it changes. Belongs to one event loop."""

    def __init__(self) -> None:
        self._facts = Facts()
        self._current = status_of(self._facts)
        self._followers: set[_Follower] = set()
        self._ended = False

    @property
    def current(self) -> Status:
        """The state now."""
        return self._current

    @property
    def facts(self) -> Facts:
        """What it follows from."""
        return self._facts

    def update(self, **facts: Any) -> None:
        """Some facts are others now (the fields of `Facts`)."""
        self._facts = replace(self._facts, **facts)
        status = status_of(self._facts)
        if status != self._current:
            self._current = status
            for follower in self._followers:
                follower.tell(status)

    def end(self) -> None:
        """There will be no others: who follows is let go."""
        self._ended = True
        for follower in self._followers:
            follower.news.set()

    async def follow(self) -> AsyncGenerator[Status, None]:
        """The state now, and then each other one, until the desk is closed.

        Who is slow misses the oldest of those that wait (`HISTORY`). Close it (`contextlib.aclosing`) when done.
        """
        follower = _Follower()
        follower.tell(self._current)
        self._followers.add(follower)
        try:
            while True:
                while follower.waiting:
                    yield follower.waiting.popleft()
                if self._ended:
                    return
                follower.news.clear()
                await follower.news.wait()
        finally:
            self._followers.discard(follower)


class _Follower:
    def __init__(self) -> None:
        self.waiting: deque[Status] = deque(maxlen=HISTORY)
        self.news = asyncio.Event()

    def tell(self, status: Status) -> None:
        self.waiting.append(status)
        self.news.set()
