"""The judge of the harness: each kind of damage is found, and named for what it is."""

from __future__ import annotations

import pytest

from .ledger import Ledger, Observation, Report, Seen, Stored, check

COUNTS = (
    "lost",
    "unexpected",
    "doubled",
    "doubled_effects",
    "out_of_order",
    "holes",
    "phantoms",
    "wrong_receipts",
    "gaps",
)


class Run:
    """A run in which everything went well: six events of two reservations, one of them without an answer."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.log = []
        for sequence in range(1, 7):
            entry = Stored(
                f"e{sequence}", "naha", f"r{sequence % 2}", (sequence + 1) // 2, sequence, (sequence + 1) // 2
            )
            self.log.append(entry)
            self.ledger.attempt(entry.event_id, entry.tenant, entry.reservation, entry.number)
            if sequence != 4:
                self.ledger.acknowledge(entry.event_id, entry.sequence, entry.revision)
        self.listing = list(self.log)
        self.once = [Seen(*entry[:4]) for entry in self.log]
        self.again = list(self.once)
        self.skips = self.gaps = 0

    def check(self) -> Report:
        once = Observation("once", True, self.once, self.skips, self.gaps)
        return check(self.ledger, self.log, self.listing, [once, Observation("again", False, self.again)])

    def wrong(self) -> dict[str, int]:
        report = self.check()
        found = {name: getattr(report, name) for name in COUNTS if getattr(report, name)}
        assert report.clean is (not found)
        return found


def test_a_good_run_is_clean() -> None:
    """Nothing is counted where nothing is wrong; an event without an answer may be in the log."""
    run = Run()
    assert run.wrong() == {}
    report = run.check()
    assert (report.attempted, report.acknowledged, report.unknown, report.stored) == (6, 5, 1, 6)


def test_an_unanswered_event_need_not_be_there() -> None:
    """What nobody was promised is not lost."""
    run = Run()
    run.ledger.attempt("e7", "naha", "r1", 4)
    assert run.wrong() == {}
    assert run.check().unknown == 2


@pytest.mark.parametrize("place", ["log", "listing", "once", "again"])
def test_a_promised_event_that_is_missing_is_lost(place: str) -> None:
    """Wherever it is missing."""
    run = Run()
    del getattr(run, place)[-1]
    assert run.wrong()["lost"] == 1
    assert run.check().lost_by == {"log": 0, "listing": 0, "once": 0, "again": 0} | {place: 1}


def test_an_event_of_the_log_must_reach_everyone() -> None:
    """Also when its publisher had no answer."""
    run = Run()
    del run.once[3]
    assert run.wrong() == {"lost": 1}


def test_what_nobody_sent_is_unexpected() -> None:
    """As is an event whose content is not what was sent."""
    run = Run()
    stranger = Stored("e7", "naha", "r1", 4, 7, 4)
    run.log.append(stranger)
    run.listing.append(stranger)
    run.once.append(Seen(*stranger[:4]))
    run.again.append(Seen(*stranger[:4]))
    assert run.wrong() == {"unexpected": 1}
    run.ledger.attempt("e7", "naha", "r1", 5)
    assert run.wrong() == {"unexpected": 1}


def test_an_event_stored_twice_is_doubled() -> None:
    """The log must know an event_id again."""
    run = Run()
    twice = run.log[-1]._replace(sequence=7, revision=4)
    run.log.append(twice)
    assert run.wrong()["doubled"] == 1


def test_an_effect_that_happens_twice_is_doubled() -> None:
    """Where once is promised; elsewhere a repetition is counted and allowed."""
    run = Run()
    run.again.append(run.again[-1])
    assert run.wrong() == {}
    assert run.check().repeated == {"again": 1}
    run.once.append(run.once[-1])
    assert run.wrong() == {"doubled_effects": 1}


@pytest.mark.parametrize("place", ["once", "again"])
def test_numbers_that_go_back_are_out_of_order(place: str) -> None:
    """A reservation's events come in the order they were published; those of others may come in between."""
    run = Run()
    seen = getattr(run, place)
    seen[0], seen[1] = seen[1], seen[0]
    assert run.wrong() == {}
    seen[2], seen[4] = seen[4], seen[2]
    assert run.wrong()["out_of_order"] > 0


def test_the_order_of_the_log_itself_counts() -> None:
    """Sequences are contiguous per tenant, revisions per reservation, numbers rise."""
    run = Run()
    run.log[2], run.log[4] = run.log[4], run.log[2]
    assert {"out_of_order", "holes"} <= run.wrong().keys()
    run = Run()
    run.log[-1] = run.log[-1]._replace(sequence=8)
    run.ledger.receipts["e6"] = run.ledger.receipts["e6"]._replace(sequence=8)
    assert run.wrong() == {"holes": 1}


def test_what_was_seen_and_is_not_in_the_log_is_a_phantom() -> None:
    """Nothing is delivered that is not stored."""
    run = Run()
    run.once.append(Seen("e7", "naha", "r1", 4))
    assert run.wrong() == {"phantoms": 1}


def test_a_receipt_must_tell_the_truth() -> None:
    """Its sequence and revision are those of the log, and a repeated one says the same."""
    run = Run()
    run.ledger.receipts["e6"] = run.ledger.receipts["e6"]._replace(sequence=9)
    assert run.wrong() == {"wrong_receipts": 1}
    run = Run()
    run.ledger.acknowledge("e6", 9, 3)
    assert run.wrong() == {"wrong_receipts": 1}


def test_what_observers_noticed_themselves_counts() -> None:
    """Sequences that skip, and gaps they were told of."""
    run = Run()
    run.skips = run.gaps = 1
    assert run.wrong() == {"out_of_order": 1, "gaps": 1}
