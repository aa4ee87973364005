"""Random deaths of hub, server and consumers, and the proof that the harness can tell a log that loses from one that
does not."""

from __future__ import annotations

import sys

import pytest

from .harness import Harness, Outcome, Plan
from .slow_disk import compiler

pytestmark = [pytest.mark.faults, pytest.mark.process]

needs_slow_disk = pytest.mark.skipif(
    sys.platform != "linux" or compiler() is None, reason="a slow disk needs Linux and a C compiler"
)


async def deaths(plan: Plan) -> Outcome:
    """Run the plan; an end of a process that was not killed is nobody's intention."""
    outcome = await Harness(plan).run()
    assert not any(outcome.unexpected_exits.values()), outcome.trouble
    return outcome


async def test_twenty_deaths_lose_nothing() -> None:
    """Whoever dies, every acknowledged event is there once, in order, and has its effect once."""
    outcome = await deaths(Plan(kills=20, seed=1))
    report = outcome.report
    assert sum(outcome.kills.values()) == 20
    assert report.acknowledged > 500
    assert (report.lost, report.doubled, report.doubled_effects, report.out_of_order) == (0, 0, 0, 0), report
    assert outcome.clean, outcome
    assert not outcome.warned_not_durable


@needs_slow_disk
async def test_without_always_the_harness_sees_the_loss() -> None:
    """With `everysec` a server that dies while its disk is slow takes acknowledged events along; the hub warned."""
    plan = Plan(kills=8, fsync="everysec", rate=None, watchers=False, only="server", until_lost=True, slow_disk_ms=600)
    outcome = await deaths(plan)
    assert outcome.report.lost_by["log"] > 0
    assert not outcome.clean
    assert outcome.warned_not_durable


@needs_slow_disk
async def test_with_always_the_same_deaths_lose_nothing() -> None:
    """On the same slow disk `always` makes publishers wait, and loses nothing."""
    plan = Plan(kills=3, fsync="always", rate=None, watchers=False, only="server", slow_disk_ms=100)
    outcome = await deaths(plan)
    assert outcome.report.acknowledged > 0
    assert outcome.clean, outcome
    assert not outcome.warned_not_durable


async def test_deaths_of_the_database_lose_nothing_either() -> None:
    """With the events kept in a PostgreSQL that is killed too: the archive has each once, its chains hold, and the
    delivery ledger claims nothing that was not done."""
    outcome = await deaths(Plan(kills=12, seed=5, store="postgres"))
    assert outcome.kills["store"] > 0
    assert outcome.memory is not None
    assert outcome.memory.archived == outcome.report.stored
    assert outcome.clean, outcome
