"""`Progress`: what may be acknowledged, what is a duplicate, where to resume."""

from __future__ import annotations

from fake_hub import cursor
from hypothesis import given
from hypothesis import strategies as st

from consumers.progress import Progress, Ticket
from schemas.cursor import join


def admitted(progress: Progress, sequence: int, tenant: str = "default", epoch: int = 7) -> Ticket:
    """Take in an event that is new."""
    ticket = progress.admit(tenant, cursor(sequence, tenant, epoch))
    assert ticket is not None
    return ticket


@given(st.lists(st.integers(1, 30), max_size=60), st.randoms(use_true_random=False))
def test_only_a_finished_prefix_counts(arrivals: list[int], random: object) -> None:
    """Whatever comes, comes again or ends in any order: each event is taken in once, the cursor never passes an
    unfinished one, and reaches the last when all are finished."""
    progress = Progress({})
    tickets: list[Ticket] = []
    highest = 0
    for sequence in arrivals:
        ticket = progress.admit("default", cursor(sequence))
        assert (ticket is None) == (sequence <= highest)
        highest = max(highest, sequence)
        if ticket is not None:
            tickets.append(ticket)
    unfinished = list(tickets)
    random.shuffle(unfinished)  # type: ignore[attr-defined]
    while unfinished:
        progress.finish(unfinished.pop())
        waiting = [tickets.index(ticket) for ticket in unfinished]
        done = tickets[: min(waiting)] if waiting else tickets
        assert progress.finished.get("default") == (done[-1].cursor if done else None)
    assert progress.position("default") == (cursor(highest) if highest else None)


def test_tenants_do_not_wait_for_each_other() -> None:
    """One tenant's unfinished event holds back nobody else's cursor."""
    progress = Progress({})
    admitted(progress, 1)
    progress.finish(admitted(progress, 1, "second"))
    assert progress.finished == {"second": cursor(1, "second")}


def test_another_epoch_is_another_count() -> None:
    """A sequence seen in one epoch is new in the next."""
    progress = Progress({"default": cursor(9)})
    assert progress.admit("default", cursor(9)) is None
    assert progress.admit("default", cursor(1, epoch=8)) is not None


def test_a_withdrawn_event_is_new_again() -> None:
    """An event that could not be queued leaves no trace."""
    progress = Progress({"default": cursor(1)})
    progress.withdraw(admitted(progress, 2))
    assert progress.position("default") == cursor(1)
    progress.finish(admitted(progress, 2))
    assert progress.finished == {"default": cursor(2)}
    progress.withdraw(admitted(progress, 1, "second"))
    assert progress.position("second") is None


def test_a_gap_counts_after_what_came_before_it() -> None:
    """The position behind a gap is not acknowledged while an earlier event is still being handled."""
    progress = Progress({"default": cursor(5)})
    earlier = admitted(progress, 6)
    progress.finish(progress.restart("default", cursor(2, epoch=8)))
    assert progress.finished == {"default": cursor(5)}
    progress.finish(earlier)
    assert progress.finished == {"default": cursor(2, epoch=8)}


def test_positions_of_unnamed_tenants_are_kept_and_find_their_names() -> None:
    """Parts of a joined cursor are resumed joined until an event or a welcome names their tenants."""
    progress = Progress({})
    progress.move_to(join([cursor(3), cursor(4, "second")]), tenant=None, guessed=False)
    kept = progress.kept()
    assert set(kept) == {"*"}
    again = Progress(kept)
    assert again.after([], named=False) == again.joined() == join([cursor(3), cursor(4, "second")])
    assert again.admit("default", cursor(3)) is None
    assert again.after(["second"], named=False) == {"default": cursor(3), "second": cursor(4, "second")}
    assert again.kept() == {"default": cursor(3), "second": cursor(4, "second")}


def test_a_durable_position_before_a_guess_wins() -> None:
    """Only a start that was guessed yields to an earlier position of the hub; a kept one does not."""
    kept = Progress({"default": cursor(9)})
    assert kept.join_named("default", cursor(4)) == "met"
    assert kept.position("default") == cursor(9)
    guessed = Progress({})
    guessed.move_to(cursor(9), tenant="default", guessed=True)
    guessed.finish(admitted(guessed, 10))
    assert guessed.join_named("default", cursor(4)) == "rewound"
    assert guessed.position("default") == cursor(4)
    # Once the two have met, the guess is forgotten.
    assert guessed.join_named("default", cursor(2)) == "met"


def test_a_durable_name_that_begins_behind_a_guess_is_noticed() -> None:
    """Events between the two would be missed; the next subscription is told the position."""
    progress = Progress({})
    progress.move_to(cursor(9), tenant="default", guessed=True)
    progress.finish(admitted(progress, 10))
    assert progress.after([], named=True) is None
    assert progress.join_named("default", cursor(12)) == "ahead"
    assert progress.position("default") == cursor(10)
    assert progress.after([], named=True) == {"default": cursor(10)}


def test_a_durable_name_resumes_behind_what_is_finished() -> None:
    """The hub holds for done what it is asked to begin behind; an event still in work is not done."""
    progress = Progress({"default": cursor(3)})
    ticket = admitted(progress, 4)
    assert progress.after([], named=True) == {"default": cursor(3)}
    assert progress.after([], named=False) == {"default": cursor(4)}
    progress.finish(ticket)
    assert progress.after([], named=True) == {"default": cursor(4)}


def test_a_position_is_begun_only_once() -> None:
    """A position told with a subscription counts for a tenant that has none."""
    progress = Progress({"default": cursor(3)})
    progress.begin("default", cursor(8))
    progress.begin("second", cursor(2, "second"))
    assert progress.finished == {"default": cursor(3), "second": cursor(2, "second")}


def test_only_news_is_told() -> None:
    """The hub is told cursors it does not have, never one behind what it has or of an epoch it has left."""
    progress = Progress({"default": cursor(5), "second": cursor(5, "second"), "third": cursor(5, "third")})
    told = {"default": cursor(5), "second": cursor(7, "second"), "third": cursor(1, "third", epoch=8)}
    assert progress.ahead_of(told) == {}
    assert progress.ahead_of({"default": cursor(4)}) == progress.finished
