"""Changes instead of whole events: who applies them knows what who reads everything knows."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.core import wire
from hub.core.changes import Changes
from hub.core.entry import Entry
from hub.core.fanout import FanOut
from hub.core.routing import Audience, Codec, Interest, View
from schemas.cursor import StreamId
from schemas.merge_patch import apply
from schemas.registry import EVENT_TYPES
from schemas.state import merged

EVERYTHING = frozenset({Interest(None, frozenset({"*"}))})
LONG = "a long note that makes an event worth shortening " * 3
BOTH = ("hotel-member", "hotel-pms")


def entry(
    number: int,
    revision: int,
    data: dict[str, Any],
    *,
    type: str = "reservation",
    action: str = "updated",
    entity: str = "reservation:R1",
    targets: Sequence[str] = BOTH,
    version: int | None = None,
) -> Entry:
    """An event as the log gives it."""
    event = {
        "event_id": f"e{number}",
        "schema_version": version or (EVENT_TYPES[type].newest if type in EVENT_TYPES else 1),
        "tenant_id": "t",
        "type": type,
        "action": action,
        "targets": list(targets),
        "entity": entity,
        "data": data,
        "revision": revision,
    }
    raw = orjson.dumps(event)
    return Entry(StreamId(number, 0), 1, "t", number, revision, type, action, entity, f"e{number}", number, raw)


def booking(**data: Any) -> dict[str, Any]:
    """A reservation's data."""
    return {"reservation_id": "R1", "status": "confirmed", "guest_name": "Sato", "special_requests": LONG, **data}


def encode(one: Entry, view: View, codec: Codec) -> bytes:
    """The whole event."""
    return wire.framed(wire.event_message(one.cursor, one.sequence, one.json(view)), codec)


def read(frame: bytes) -> Any:
    """The JSON of one server frame, packed or not."""
    size, at = frame[1], 2
    if size == 126:
        size, at = int.from_bytes(frame[2:4], "big"), 4
    payload = frame[at : at + size]
    if frame[0] & 0x40:
        payload = zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")
    return orjson.loads(payload)


def audience(view: View = "full", codec: Codec = "plain", system: str = "hub", **more: Any) -> Audience:
    """Somebody who asked for changes only."""
    return Audience(more.pop("interests", EVERYTHING), system, view, codec, changes_only=True)


def sent(changes: Changes, one: Entry, to: Audience) -> Any:
    """What an audience is sent of an event, which is remembered."""
    frame = read(changes.frame(one, to))
    changes.keep(one)
    return frame


@pytest.mark.parametrize("codec", ["plain", "deflate"])
def test_an_update_is_what_differs(codec: Codec) -> None:
    """Ids stay, equal fields go, the envelope is untouched; the revision it builds on is named."""
    changes, to = Changes(encode), audience(codec=codec)
    assert "base_revision" not in sent(changes, entry(1, 1, booking(room_number="1")), to)
    second = entry(2, 2, booking(room_number=None, total_amount=5))
    made = changes.frame(second, to)
    assert len(made) < len(encode(second, "full", codec))
    frame = read(made)
    assert list(frame) == ["op", "cursor", "sequence", "base_revision", "event"]
    assert (frame["base_revision"], frame["cursor"], frame["sequence"]) == (1, second.cursor, 2)
    assert frame["event"]["data"] == {"reservation_id": "R1", "room_number": None, "total_amount": 5}
    assert {**frame["event"], "data": 0} == {**second.event, "data": 0}


def test_what_speaks_of_an_event_alone_stays() -> None:
    """A customer's points delta is sent though it is the same as last time."""
    changes, to = Changes(encode), audience()
    data = {"customer_id": "C1", "name": "Sato", "email": LONG, "points_delta": 5, "points_ledger_id": "L1"}
    for number in (1, 2):
        one = entry(number, number, data, type="customer", entity="customer:C1")
        frame = sent(changes, one, to)
    assert frame["event"]["data"] == {"customer_id": "C1", "points_delta": 5, "points_ledger_id": "L1"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (None, entry(2, 2, booking())),
        (entry(1, 1, booking()), entry(2, 3, booking())),
        (entry(1, 1, booking(), entity="reservation:R2"), entry(2, 2, booking())),
        (entry(1, 1, {"reservation_id": "R1"}, type="checkin_checkout"), entry(2, 2, booking())),
        (entry(1, 1, {"reservation_id": "R1", "status": "x"}), entry(2, 2, {"reservation_id": "R1", "status": "y"})),
        (entry(1, 1, {"a": 1, "b": LONG}, type="novelty"), entry(2, 2, {"a": 1, "b": LONG}, type="novelty")),
        (entry(1, 1, booking(), targets=["hotel-pms"]), entry(2, 2, booking(), targets=BOTH)),
    ],
    ids=["nothing before", "a revision between", "another entity", "another type", "no smaller", "unknown", "unseen"],
)
def test_whole_events_where_no_patch_can_be(first: Entry | None, second: Entry) -> None:
    """Without the revision right before it, seen by the same reader, an event goes out whole."""
    changes, to = Changes(encode), audience(system="hotel-member")
    if first is not None:
        sent(changes, first, to)
    assert changes.frame(second, to) == encode(second, "full", "plain")


def test_who_did_not_ask_for_the_earlier_event_gets_the_whole() -> None:
    """A reader of one action is not sent a patch of an event of another."""
    changes = Changes(encode)
    some = audience(interests=frozenset({Interest(None, frozenset({"reservation.cancelled"}))}))
    sent(changes, entry(1, 1, booking(), action="created"), audience())
    second = entry(2, 2, booking(), action="cancelled")
    assert changes.frame(second, some) == encode(second, "full", "plain")
    assert read(changes.frame(second, audience()))["base_revision"] == 1


def test_an_object_that_a_patch_cannot_say() -> None:
    """A field that becomes an object with a `null` in it takes the whole event."""
    changes, to = Changes(encode), audience()
    data = {"report_type": "daily_report", "period_start": LONG}
    first, second = ({**data, "detailed_data": {"a": value}} for value in (1, None))
    sent(changes, entry(1, 1, first, type="analytics"), to)
    frame = sent(changes, entry(2, 2, second, type="analytics"), to)
    assert "base_revision" not in frame
    assert frame["event"]["data"] == second


def test_masked_patches_tell_no_more_than_masked_events() -> None:
    """A guest's new name is no news to who may not read it."""
    changes, to = Changes(encode), audience("masked")
    sent(changes, entry(1, 1, booking()), to)
    frame = sent(changes, entry(2, 2, booking(guest_name="Suzuki", status="cancelled")), to)
    assert frame["base_revision"] == 1
    assert frame["event"]["data"] == {"reservation_id": "R1", "status": "cancelled"}


def test_old_versions_are_held_against_new_ones() -> None:
    """Both are brought to the newest version first."""
    changes, to = Changes(encode), audience()
    old = {"order_id": "O1", "room_number": "1", "item": LONG, "quantity": 2, "unit_price": 3, "currency": "JPY"}
    new = {"order_id": "O1", "room_number": "2", "items": [{"name": LONG, "quantity": 2, "unit_price": 3}]}
    new |= {"total_amount": 6, "currency": "JPY", "estimated": False}
    sent(changes, entry(1, 1, old, type="order", entity="order:O1", version=1), to)
    frame = sent(changes, entry(2, 2, new, type="order", entity="order:O1"), to)
    assert frame["event"]["data"] == {"order_id": "O1", "room_number": "2"}


def test_the_memory_is_bounded_and_can_be_cleared() -> None:
    """The entity heard of longest ago is forgotten; a cleared memory makes whole events."""
    changes, to = Changes(encode, memory_bytes=3000), audience()
    ones = [entry(number, 1, booking(), entity=f"reservation:R{number}") for number in range(5)]
    for one in ones:
        sent(changes, one, to)
    assert 1 < len(changes) < 5
    fresh = entry(9, 2, booking(), entity="reservation:R4")
    assert "base_revision" in read(changes.frame(fresh, to))
    assert "base_revision" not in read(changes.frame(entry(9, 2, booking(), entity="reservation:R0"), to))
    changes.clear()
    assert len(changes) == 0
    again = entry(9, 2, booking(), entity="reservation:R4")
    assert "base_revision" not in read(changes.frame(again, to))


# In the fan-out


@dataclass(eq=False)
class Member:
    """Somebody who puts together what came, and keeps the states after each event."""

    audience: Audience
    got: list[Any] = field(default_factory=list)
    states: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    revisions: dict[tuple[str, str], int] = field(default_factory=dict)
    patches: int = 0

    def deliver(self, buffer: bytes, events: Sequence[Entry], before: int) -> bool:
        """Take one frame."""
        frame = read(buffer)
        event = frame["event"]
        key = (event["type"], event["entity"])
        transient = EVENT_TYPES[event["type"]].transient
        if "base_revision" in frame:
            self.patches += 1
            assert self.audience.changes_only
            assert self.revisions.get(key) == frame["base_revision"]
            lasting = {name: value for name, value in event["data"].items() if name not in transient}
            self.states[key] = apply(self.states[key], lasting)
        else:
            self.states[key] = merged(self.states.get(key, {}), event["data"], transient)
        self.revisions[key] = event["revision"]
        self.got.append((frame["sequence"], dict(self.states[key])))
        return True


values = st.sampled_from([None, 1, 2, LONG])
datas = st.dictionaries(st.sampled_from(["status", "guest_name", "room_number", "channel"]), values, max_size=4)
steps = st.lists(
    st.tuples(
        st.sampled_from(["reservation", "checkin_checkout"]),
        st.sampled_from(["R1", "R2"]),
        datas,
        st.sampled_from([BOTH, ("hotel-pms",)]),
    )
    | st.sampled_from(["rejoin", "clear", "come and go"]),
    max_size=40,
)


@settings(max_examples=150)
@given(steps, st.sampled_from(["full", "masked"]), st.sampled_from(["hub", "hotel-member"]))
def test_changes_and_whole_events_lead_to_the_same_states(all_steps: list[Any], view: View, system: str) -> None:
    """After each event the reader of changes and the reader of whole events know the same."""
    changes = Changes(encode)
    fan: FanOut[Entry, int] = FanOut(encode, changes)
    plain, whole = Audience(EVERYTHING, system, view), Audience(EVERYTHING, system, view, changes_only=True)
    members = [Member(plain), Member(whole)]
    for member in members:
        fan.join(member, member.audience)
    revisions = {"R1": 0, "R2": 0}
    for number, step in enumerate(all_steps, 1):
        if step == "rejoin":
            fan.leave(members[1], whole)
            fan.join(members[1], whole)
        elif step == "clear":
            changes.clear()
        elif step == "come and go":
            fan.leave(members[1], whole)
            assert len(changes) == 0
            fan.join(members[1], whole)
        else:
            type, id, data, targets = step
            revisions[id] += 1
            one = {"type": type, "entity": f"reservation:{id}", "targets": targets}
            fan.add(entry(number, revisions[id], {"reservation_id": id, **data}, **one), number)
            fan.flush(fan.waiting())
    assert members[0].got == members[1].got
    assert members[0].patches == 0


def test_nothing_is_remembered_when_nobody_asks() -> None:
    """Whole events cost no memory, and the last reader of changes takes it away."""
    changes = Changes(encode)
    fan: FanOut[Entry, int] = FanOut(encode, changes)
    plain, asking = Member(Audience(EVERYTHING, "hub")), Member(audience())
    fan.join(plain, plain.audience)
    fan.add(entry(1, 1, booking()), 0)
    assert len(changes) == 0
    fan.flush(fan.waiting())
    fan.join(asking, asking.audience)
    for number in (2, 3):
        fan.add(entry(number, number, booking(room_number=str(number))), number)
        fan.flush(fan.waiting())
    assert (len(changes), asking.patches, len(plain.got)) == (1, 1, 3)
    fan.leave(asking, asking.audience)
    assert len(changes) == 0
