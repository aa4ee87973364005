"""Which failure is of which class, what is done about it (R85), and what the staff is told."""

from __future__ import annotations

import errno
import sqlite3
from typing import get_args

import pytest

from consumers.errors import AccessRefused, Disconnected, HubRefused
from consumers.offline.errors import LocalDamaged, LocalFull, LocalInUse, LocalUnusable
from consumers.offline.failures import RETRIES, Action, Kind, action_of, kind_of
from consumers.offline.guidance import Situation, after_failure, after_recovery, guidance, in_outage
from consumers.offline.recovery import State
from schemas.frames import Close


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Disconnected("cannot connect"), "link_down"),
        (ConnectionResetError(), "link_down"),
        (Disconnected("no answer: ReadTimeout", sent=True), "hub_failed"),
        (TimeoutError(), "hub_failed"),
        (HubRefused("internal", "", retryable=True), "hub_failed"),
        (HubRefused("rate_limited", "", retryable=True), "hub_failed"),
        (HubRefused("token_expired", "", retryable=False), "token_expired"),
        (AccessRefused(401, "unauthorized"), "token_expired"),
        (AccessRefused(Close.BAD_TOKEN, "bad token"), "token_expired"),
        (Disconnected("closed", code=Close.TOKEN_EXPIRED), "token_expired"),
        (AccessRefused(403, "forbidden"), "forbidden"),
        (AccessRefused(Close.FORBIDDEN, "revoked"), "forbidden"),
        (HubRefused("not_authority", "", retryable=False), "forbidden"),
        (HubRefused("invalid_request", "", retryable=False), "refused"),
        (LocalUnusable("a.db", "disk I/O error"), "write_failed"),
        (sqlite3.OperationalError("disk I/O error"), "write_failed"),
        (OSError(errno.EIO, "I/O error"), "write_failed"),
        (OSError(errno.ENOSPC, "no space"), "disk_full"),
        (LocalFull("a.db", "no space"), "disk_full"),
        (LocalDamaged("a.db", ["malformed"]), "damaged"),
        (LocalInUse("a.db", "in use"), "in_use"),
        (KeyError("a defect"), "unexpected"),
    ],
)
def test_the_class_of_a_failure(error: Exception, kind: Kind) -> None:
    """What was raised tells what it is."""
    assert kind_of(error) == kind


@pytest.mark.parametrize(
    ("kind", "actions"),
    [
        ("link_down", ["go_offline"] * 5),
        ("hub_failed", ["retry"] * 3 + ["escalate"] * 2),
        ("token_expired", ["ask_pin"] * 5),
        ("write_failed", ["retry"] * 3 + ["propose_rebuild"] * 2),
        ("damaged", ["rebuild"] * 5),
        ("disk_full", ["make_room"] * 5),
        ("refused", ["escalate"] * 5),
        ("forbidden", ["escalate"] * 5),
        ("unexpected", ["retry"] * 3 + ["escalate"] * 2),
    ],
)
def test_what_is_done_about_it(kind: Kind, actions: list[Action]) -> None:
    """R85: offline mode; three retries; PIN; retries and a proposal; rebuild."""
    assert RETRIES == 3
    assert [action_of(kind, failures) for failures in range(1, 6)] == actions


def test_every_class_has_an_action_and_every_action_a_word() -> None:
    """Whatever fails, something is done; and whatever is done but a silent retry, the staff is told."""
    for kind in get_args(Kind):
        for failures in (1, 99):
            action = action_of(kind, failures)
            assert action in get_args(Action)
            assert (after_failure(action) is None) == (action == "retry")


def test_every_situation_is_told_in_both_languages() -> None:
    """Title and steps, as many in either language."""
    for situation in get_args(Situation):
        told = guidance(situation)
        assert told.situation == situation
        assert told.ja.title
        assert told.en.title
        assert len(told.ja.steps) == len(told.en.steps) > 0
        assert "".join(told.en.steps).isascii()


def test_the_words_of_the_banner() -> None:
    """R97 and R100, letter by letter."""
    assert guidance("outage").ja.title == "オフライン中"
    assert guidance("recovering").ja.title == "オンライン復旧・同期開始"
    assert guidance("recovered").ja.title == "全データ同期完了"
    assert guidance("pin_needed").ja.title == "セッション期限切れ・復旧時再認証"
    assert guidance("rebuild_proposed").ja.title == "保存エラー・データ修復"


def test_an_outage_is_told_more_urgently_as_it_lasts() -> None:
    """R83: after an hour the manager, after a day the administrator; a thousand waiting items are said besides."""
    assert [one.situation for one in in_outage(0, 3)] == ["outage"]
    assert [one.situation for one in in_outage(3599, 999)] == ["outage"]
    assert [one.situation for one in in_outage(3600, 1000)] == ["outage_long", "queue_full"]
    assert [one.situation for one in in_outage(86400, 0)] == ["outage_day"]


def test_a_recovery_is_told_as_it_ended() -> None:
    """Nobody is told that all is synced while something waits for a person."""
    for state in get_args(State):
        told = [one.situation for one in after_recovery(state, conflicts=1, failed=0, rebuilt=False)]
        assert told
        assert "recovered" not in told
    done = after_recovery("recovered", conflicts=0, failed=0, rebuilt=False)
    assert [one.situation for one in done] == ["recovered", "monitoring"]
    done = after_recovery("unverified", conflicts=0, failed=2, rebuilt=True)
    assert [one.situation for one in done] == ["rebuilt", "attention", "unverified", "monitoring"]
