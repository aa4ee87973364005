"""Webhooks while hub, server and database die at random; and the proof that their judge sees what goes wrong."""

from __future__ import annotations

import pytest

from .ledger import Ledger
from .webhooks import Got, Plan, Verdict, WebhookHarness, endpoint_of, judge

STEADY, PICKY = endpoint_of("steady", "naha"), endpoint_of("picky", "naha")


async def deaths(plan: Plan) -> Verdict:
    """Run the plan; an end of the hub that was not a kill is nobody's intention."""
    harness = WebhookHarness(plan)
    verdict = await harness.run()
    assert not harness.hub.keeper.unexpected_exits, harness.hub.keeper.words
    return verdict


@pytest.mark.faults
@pytest.mark.process
async def test_deaths_of_the_hub_lose_no_webhook() -> None:
    """Every acknowledged event reaches every endpoint that asks for it, in its entity's order, each attempt counted."""
    verdict = await deaths(Plan(("hub",) * 7, seed=1))
    assert verdict.acknowledged > 100
    assert verdict.requests > verdict.acknowledged
    assert verdict.clean, verdict


@pytest.mark.faults
@pytest.mark.process
async def test_deaths_of_the_database_lose_no_webhook_either() -> None:
    """The same with what is owed in a PostgreSQL that is killed under the hub, and the hub after it."""
    verdict = await deaths(Plan(("store", "hub", "store", "store"), seed=2, store="postgres"))
    assert verdict.acknowledged > 30
    assert verdict.clean, verdict


def published(*numbers: int) -> Ledger:
    """A ledger of acknowledged events of one reservation."""
    ledger = Ledger()
    for number in numbers:
        ledger.attempt(f"e{number}", "naha", "r", number)
        ledger.acknowledge(f"e{number}", number, number)
    return ledger


def got(number: int, attempt: int = 1, *, took: bool = True, verified: bool = True, endpoint: str = STEADY) -> Got:
    """A request about one of those events."""
    return Got(endpoint, f"e{number}", "naha", "r", number, attempt, took, verified)


def test_what_should_come_is_clean() -> None:
    """Failed attempts come again, an event that was taken may, and an endpoint gets only what it asks for."""
    requests = [
        got(1, took=False),
        got(1, 2),
        got(1, endpoint=PICKY),
        got(1, 3),
        got(2),
        got(3, took=False),
        got(3, 2),
    ]
    verdict = judge(published(1, 2, 3), requests, [STEADY, PICKY])
    assert verdict == Verdict(3, 7, repeated=1, lost=0, out_of_order=0, miscounted=0, unverified=0, unexpected=0)
    assert verdict.clean


@pytest.mark.parametrize(
    ("requests", "wrong"),
    [
        ([got(1)], "lost"),
        ([got(1), got(2, took=False)], "lost"),
        ([got(2), got(1), got(2, 2)], "out_of_order"),
        ([got(1, took=False), got(2), got(1, 2)], "out_of_order"),
        ([got(1), got(2), got(1, 2)], "out_of_order"),
        ([got(1, took=False), got(1, 1), got(2)], "miscounted"),
        ([got(1), got(2, verified=False)], "unverified"),
        ([got(1), got(2), got(3)], "unexpected"),
        ([got(1), got(2), got(1, endpoint=PICKY), got(2, endpoint=PICKY)], "unexpected"),
    ],
)
def test_what_should_not_is_seen(requests: list[Got], wrong: str) -> None:
    """Each fault of the hub has its name."""
    verdict = judge(published(1, 2), requests, [STEADY])
    assert getattr(verdict, wrong) > 0
    assert not verdict.clean
