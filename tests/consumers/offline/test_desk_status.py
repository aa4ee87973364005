"""What the desk shows: texts, their order, and the stream of states."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from consumers.offline.items import Counts
from consumers.offline.status import HISTORY, LOOKS, Facts, Status, StatusStream, status_of

TROUBLED: dict[str, Any] = {
    "local_error": "no room",
    "session_expired": True,
    "recovering": True,
    "syncing": True,
    "problem": "the hub failed",
    "synced": True,
    "counts": Counts(queued=4, failed=2, conflict=3),
}


@pytest.mark.parametrize(
    ("facts", "state", "banner", "footer"),
    [
        (Facts(), "offline", "オフライン中", "同期待ち 0件"),
        (Facts(online=True), "online", None, "オンライン"),
        (Facts(counts=Counts(queued=2, syncing=1)), "offline", "オフライン中", "同期待ち 3件"),
        (Facts(online=True, recovering=True), "recovering", "オンライン復旧・同期開始", "同期中"),
        (Facts(online=True, syncing=True, done=5, total=20), "syncing", None, "同期中 5/20"),
        (Facts(online=True, problem="why"), "failed", "同期失敗", "同期失敗・同期待ち 0件"),
        (Facts(online=True, counts=Counts(failed=2)), "failed", "同期失敗", "同期失敗 2件"),
        (Facts(online=True, counts=Counts(conflict=1)), "conflict", "競合の確認が必要です", "競合 1件"),
        (Facts(online=True, counts=Counts(failed=2, queued=3)), "failed", "同期失敗", "同期失敗 2件・同期待ち 3件"),
        (Facts(online=True, counts=Counts(queued=1)), "waiting", None, "同期待ち 1件"),
        (Facts(online=True, synced=True), "all_synced", "全データ同期完了", "同期済み"),
        (Facts(session_expired=True), "session_expired", "セッション期限切れ・復旧時再認証", "同期待ち 0件"),
        (Facts(online=True, local_error="why"), "local_error", "保存エラー・データ修復", "同期待ち 0件"),
    ],
)
def test_each_state_has_its_texts(facts: Facts, state: str, banner: str | None, footer: str) -> None:
    """Banner and footer are those that were asked for, in both languages (R97, R99, R100)."""
    status = status_of(facts)
    assert (status.state, status.footer.ja) == (state, footer)
    assert (None if status.banner is None else status.banner.ja) == banner
    assert status.footer.en
    why = "why" in (facts.problem, facts.local_error)
    assert (status.detail is not None) == (why or facts.counts.failed > 0)
    assert not why or status.detail == ("why", "why")


def test_what_could_not_be_synced_is_told_in_both_languages() -> None:
    """How many operations, and how many wait behind them."""
    detail = status_of(Facts(online=True, counts=Counts(failed=2, queued=3))).detail
    assert detail == ("2件の同期に失敗しました（同期待ち 3件）", "2 operations could not be synced (3 waiting)")


@pytest.mark.parametrize(
    ("state", "color", "icon"),
    [
        ("offline", "red", "offline"),
        ("recovering", "green", "syncing"),
        ("failed", "amber", "warning"),
        ("all_synced", "green", "check"),
    ],
)
def test_colors_and_icons(state: Any, color: str, icon: str) -> None:
    """Red while offline, green on the way back and when all is synced, a warning on failure (R97)."""
    assert LOOKS[state][:2] == (color, icon)


def test_the_first_of_several_states_is_shown() -> None:
    """What somebody must do something about goes before what passes by itself."""
    order = []
    facts = dict(TROUBLED)
    for mended in (
        {"local_error": None},
        {"session_expired": False},
        {"online": True},
        {"recovering": False},
        {"syncing": False},
        {"problem": None},
        {"counts": Counts(queued=4, conflict=3)},
        {"counts": Counts(queued=4)},
        {"counts": Counts()},
        {"synced": False},
        {},
    ):
        order.append(status_of(Facts(**facts)).state)
        facts |= mended
    assert order == [
        "local_error",
        "session_expired",
        "offline",
        "recovering",
        "syncing",
        "failed",
        "failed",
        "conflict",
        "waiting",
        "all_synced",
        "online",
    ]
    assert set(order) == set(LOOKS)


async def test_who_follows_sees_the_state_now_and_each_other_one() -> None:
    """Facts that change nothing that is shown are not told; the end ends it."""
    stream = StatusStream()

    async def follow() -> list[Status]:
        async with aclosing(stream.follow()) as states:
            return [state async for state in states]

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    stream.update(online=True)
    stream.update(online=True)
    stream.update(syncing=True, done=1, total=2)
    stream.update(syncing=False, synced=True)
    stream.end()
    seen = await task
    assert [state.state for state in seen] == ["offline", "online", "syncing", "all_synced"]
    assert stream.current == seen[-1]


async def test_who_is_slow_misses_the_oldest() -> None:
    """Nothing is kept without bound for a follower that does not read; the newest state is always there."""
    stream = StatusStream()
    stream.update(online=True)
    async with aclosing(stream.follow()) as states:
        assert (await anext(states)).state == "online"
        for number in range(2 * HISTORY):
            stream.update(syncing=True, done=number, total=1000)
        waiting = [(await anext(states)).done for _ in range(HISTORY)]
    assert waiting == list(range(HISTORY, 2 * HISTORY))
    assert stream._followers == set()
