"""A folio's balance: what its movements come to, also where they do not say."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_changes import encode, entry, read

from hub.core.changes import Changes
from hub.core.projection import Folding
from hub.core.routing import Audience, Interest
from schemas.billing import balanced
from schemas.cursor import StreamId

FOLIO = "billing:F1"
movements = st.lists(
    st.tuples(
        st.sampled_from(["charged", "settled", "corrected"]), st.integers(0, 10_000_00).map(lambda cents: cents / 100)
    ),
    min_size=1,
    max_size=12,
)


def moved(action: str, amount: float, **said: Any) -> dict[str, Any]:
    """A movement, as far as it matters here."""
    data = {"folio_id": "F1", "amount": amount, **said}
    return {"schema_version": 1, "targets": ["hotel-pms"], "action": action, "data": data}


def balance(*events: dict[str, Any], first: int = 1) -> float | None:
    """What the state says after these."""
    folding = Folding("billing")
    for number, event in enumerate(events, first):
        folding.add({"revision": number, **event}, number, StreamId(number, 0))
    assert folding.state is not None
    return folding.state.data.get("balance")


@given(movements, st.data())
def test_the_balance_is_the_sum_whoever_tells_it(made: list[tuple[str, float]], draw: st.DataObject) -> None:
    """Room service does not know the balance when it charges; the front desk does."""
    total = Decimal(0)
    events = []
    for action, amount in made:
        total += Decimal(str(amount)) * (-1 if action == "settled" else 1)
        told = draw.draw(st.booleans())
        events.append(moved(action, amount, **({"balance": float(total)} if told else {})))
    assert balance(*events) == pytest.approx(float(total), abs=1e-6)


def test_what_cannot_be_told_stays_untold() -> None:
    """The beginning is not kept or not to be seen, or money went back: as a charge taken back, or what was overpaid."""
    assert balance(moved("charged", 700), first=3) is None
    assert balance(moved("charged", 700, balance=900), moved("refunded", 700)) == 900
    assert balance(moved("charged", 700, balance=900), moved("refunded", 700, balance=200)) == 200


@pytest.mark.parametrize(
    ("said", "action", "held", "after"),
    [
        ({"amount": 5, "balance": 15}, "charged", {"balance": 17}, 22),
        ({"amount": 5}, "charged", {"balance": 17}, 22),
        ({"amount": 17, "balance": 0}, "settled", {"balance": 24}, 7),
        ({"amount": 5, "balance": 15}, "charged", {}, 15),
        ({"amount": 5, "balance": 15}, "charged", None, 15),
        ({"amount": 5}, "charged", None, None),
        ({"amount": 5, "balance": 15}, "refunded", {"balance": 20}, 15),
        ({"balance": 15}, "corrected", {"balance": 20}, 15),
    ],
)
def test_a_desks_movement_counts_what_others_moved(
    said: dict[str, Any], action: str, held: dict[str, Any] | None, after: float | None
) -> None:
    """The balance that it told was so when it was made."""
    assert balanced(said, action, held).get("balance") == after


def test_a_change_tells_a_balance_that_is_the_same_again() -> None:
    """Left out it would be reckoned from the amount."""
    everything = Audience(frozenset({Interest(None, frozenset({"*"}))}), "hub", "full", "plain", changes_only=True)
    changes = Changes(encode)
    note = {"room_number": "301", "customer_id": "C" * 80, "reservation_id": "R" * 80}
    for revision in (1, 2):
        data = {"folio_id": "F1", "amount": 5, "balance": 15, **note}
        one = entry(revision, revision, data, type="billing", action="corrected", entity=FOLIO)
        frame = read(changes.frame(one, everything))
        changes.keep(one)
    assert frame["base_revision"] == 1
    assert frame["event"]["data"] == {"folio_id": "F1", "amount": 5, "balance": 15}
