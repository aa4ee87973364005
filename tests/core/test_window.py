"""The window of a durable subscriber against a model of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hub.core.window import Window

STEPS = st.lists(
    st.tuples(st.sampled_from(["sent", "acked", "forget"]), st.sampled_from(["a", "b"]), st.integers(0, 12)),
    max_size=60,
)


@given(STEPS)
def test_it_waits_for_what_was_sent_and_not_acknowledged(steps: list[tuple[str, str, int]]) -> None:
    """Whatever is sent, acknowledged up to anywhere, and forgotten: it counts what a set of pairs would hold."""
    window, model = Window(5), set[tuple[str, int]]()
    last = {"a": 0, "b": 0}
    for what, tenant, number in steps:
        if what == "sent":
            last[tenant] += 1
            window.sent(tenant, last[tenant], 7)
            model.add((tenant, last[tenant]))
        elif what == "acked":
            window.acked(tenant, number)
            model = {(name, one) for name, one in model if name != tenant or one > number}
        else:
            window.forget(tenant)
            model = {(name, one) for name, one in model if name != tenant}
        assert window.outstanding == len(model)
        assert window.full == (len(model) >= 5)
        assert [window.holds(name) for name in "ab"] == [any(one == name for one, _ in model) for name in "ab"]


def test_an_epoch_is_known_by_what_was_sent_in_it() -> None:
    """Only an epoch of which something was sent may be acknowledged; also when all of it is."""
    window = Window(10)
    window.sent("a", 1, 7)
    window.acked("a", 1)
    assert window.sent_in("a", 7)
    assert not window.sent_in("a", 8)
    assert not window.sent_in("b", 7)
