"""The judge of desks and hub sees what goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .desk_ledger import Said, Verdict, judge


def item(number: int, model: str = "Reservation", amount: int = 0) -> dict[str, Any]:
    """The desk's change of that number."""
    of = "F1" if model == "Billing" else "R1"
    said = {"uuid": f"e{number}", "device_sequence": number, "model": model, "entity_id": of}
    return said | {"entity": f"{model.lower()}:{of}", "payload": {"amount": amount}}


def event(number: int, revision: int, type: str = "reservation", amount: int = 0) -> dict[str, Any]:
    """Its event, as the hub lists it."""
    of = "F1" if type == "billing" else "R1"
    said = {"event_id": f"e{number}", "revision": revision, "entity": f"{type}:{of}", "device_id": "desk-1"}
    return {"sequence": number, "event": said | {"type": type, "data": {"folio_id": of, "amount": amount}}}


class Case:
    """A desk that made three changes, and a hub that has them."""

    def __init__(self) -> None:
        self.items = [item(1), item(2), item(3, "Billing", 50)]
        self.archive = [event(1, 1), event(2, 2), event(3, 1, "billing", 50)]
        self.folios = {"billing:F1": {"balance": 50}}

    def verdict(self) -> Verdict:
        """What is said of it. The third change was never printed."""
        return judge(self.archive, self.folios, [Said("desk-1", {"e1", "e2"}, self.items)])


def test_what_should_be_there_is_clean() -> None:
    """Every change is one event; one that was kept and not printed may be there, too."""
    verdict = Case().verdict()
    assert (verdict.printed, verdict.archived, verdict.trouble) == (2, 3, [])
    assert verdict.clean


def swapped(case: Case) -> None:
    """The second change came first."""
    case.archive[:2] = [event(2, 1) | {"sequence": 1}, event(1, 2) | {"sequence": 2}]


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (lambda case: case.archive.pop(0), "lost"),
        (lambda case: case.archive.pop(), "kept_back"),
        (lambda case: case.archive.append(event(2, 3) | {"sequence": 4}), "doubled"),
        (lambda case: case.archive.append(event(4, 3)), "invented"),
        (lambda case: case.archive.append(event(3, 2, "billing", 50) | {"sequence": 5}), "gaps"),
        (lambda case: case.items.pop(1), "gaps"),
        (swapped, "out_of_order"),
        (lambda case: case.items.append(item(4, "Billing", 5)), "miscounted"),
        (lambda case: case.folios["billing:F1"].update(balance=45), "misbalanced"),
    ],
)
def test_what_should_not_be_is_seen(spoil: Callable[[Case], Any], wrong: str) -> None:
    """Each fault has its name."""
    case = Case()
    spoil(case)
    verdict = case.verdict()
    assert getattr(verdict, wrong) > 0
    assert not verdict.clean
