"""WebSocket frames: what the hub takes from clients, and that its examples are true."""

from __future__ import annotations

from typing import Any, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from schemas.asyncapi import CLOSE_MEANINGS
from schemas.cursor import Cursor
from schemas.envelope import Draft
from schemas.frame_examples import EXAMPLES
from schemas.frames import CLIENT_FRAMES, SERVER_FRAMES, Close, Subscribe, may_reconnect
from schemas.registry import EVENT_TYPES, field_errors, read, validate_data

FRAMES: dict[str, type[BaseModel]] = {
    **CLIENT_FRAMES,
    **{get_args(model.model_fields["op"].annotation)[0]: model for model in SERVER_FRAMES},
}


def errors(frame: dict[str, Any]) -> list[str]:
    """The paths of the field errors of a client's frame."""
    try:
        CLIENT_FRAMES[frame["op"]].model_validate(frame)
    except ValidationError as error:
        return [found.path for found in field_errors(error)]
    return []


def test_frames_are_told_apart_by_op() -> None:
    """An op stands for one frame, whichever way it goes."""
    assert len(FRAMES) == len(CLIENT_FRAMES) + len(SERVER_FRAMES)
    for op, model in CLIENT_FRAMES.items():
        assert get_args(model.model_fields["op"].annotation) == (op,)


@pytest.mark.parametrize("op", FRAMES)
def test_examples_are_frames(op: str) -> None:
    """The published example of a frame is accepted and has no field that the frame does not have."""
    assert set(EXAMPLES) == set(FRAMES)
    example = EXAMPLES[op]
    FRAMES[op].model_validate(example, extra="forbid")
    assert next(iter(example)) == "op"


def test_the_events_in_examples_are_events() -> None:
    """A reader may send the example draft, and parse the example event and its cursors."""
    published = EXAMPLES["publish"]["event"]
    draft = Draft.model_validate(published)
    kind = EVENT_TYPES[draft.type]
    assert validate_data(kind, kind.newest, draft.data) == []
    frame = EXAMPLES["event"]
    event = read(orjson.dumps(frame["event"]))
    assert type(event) is EVENT_TYPES[event.type].event
    assert list(frame["event"])[-1] == "revision"
    assert Cursor.decode(frame["cursor"], event.tenant_id).sequence == frame["sequence"]
    for tenant, cursor in EXAMPLES["subscribe"]["after"].items():
        Cursor.decode(cursor, tenant)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"id": 7}, None),
        ({"id": "s1"}, None),
        ({"id": True}, "id"),
        ({"id": 1.5}, "id"),
        ({"id": None}, "id"),
        ({"id": ["a"]}, "id"),
        ({"id": "x" * 201}, "id"),
        ({"patterns": []}, "patterns"),
        ({"patterns": ["*"] * 65}, "patterns"),
        ({"patterns": ["room.*", "nonsense"]}, "patterns.1"),
        ({"patterns": "room.*"}, "patterns"),
        ({"tenants": []}, "tenants"),
        ({"tenants": ["a b"]}, "tenants.0"),
        ({"entities": ["room:301", "room"]}, "entities.1"),
        ({"after": "latest"}, None),
        ({"after": {"default": "earliest"}}, None),
        ({"after": 5}, "after"),
        ({"after": {"default": 5}}, "after"),
        ({"name": "house keeping"}, "name"),
        ({"name": ""}, "name"),
        ({"snapshot": 1}, "snapshot"),
        ({"batch_ms": 1000}, None),
        ({"batch_ms": 1001}, "batch_ms"),
        ({"batch_ms": -1}, "batch_ms"),
        ({"batch_ms": 10.0}, "batch_ms"),
        ({"mood": "good"}, None),
    ],
)
def test_a_subscription_is_checked_field_by_field(change: dict[str, Any], path: str | None) -> None:
    """A refusal names the one wrong field once; unknown fields are ignored."""
    frame = {"op": "subscribe", "id": 1, "patterns": ["room.*"]} | change
    assert errors(frame) == ([] if path is None else [path])


@pytest.mark.parametrize(
    ("frame", "path"),
    [
        ({"op": "publish"}, None),
        ({"op": "publish", "ref": {}, "event": {}}, "ref"),
        ({"op": "unsubscribe"}, "id"),
        ({"op": "ack", "cursors": {}}, "cursors"),
        ({"op": "ack", "cursors": {"default": 5}}, "cursors.default"),
        ({"op": "auth", "token": "x" * 8193}, "token"),
        ({"op": "auth"}, "token"),
        ({"op": "auth", "token": "t", "device_id": ""}, "device_id"),
        ({"op": "refresh", "token": 5}, "token"),
        ({"op": "ping", "extra": 1}, None),
    ],
)
def test_other_frames_are_checked_field_by_field(frame: dict[str, Any], path: str | None) -> None:
    """A refusal names the one wrong field once."""
    assert errors(frame) == ([] if path is None else [path])


@given(st.integers() | st.text(max_size=200))
def test_an_id_comes_back_as_it_was_sent(id: int | str) -> None:
    """Numbers stay numbers and texts stay texts: clients look their requests up by it."""
    frame = Subscribe.model_validate({"op": "subscribe", "id": id, "patterns": ["*"]})
    assert frame.id == id
    assert type(frame.id) is type(id)


def test_every_close_code_is_explained() -> None:
    """The published table has each code, and says of each whether to come back."""
    codes = {value for name, value in vars(Close).items() if not name.startswith("_")}
    assert set(CLOSE_MEANINGS) == codes
    assert {code for code in codes if not may_reconnect(code)} == {4501, 4502, 4503}
