"""Masked views: what a token with `view: masked` reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from schemas import registry
from schemas.registry import EVENT_TYPES

Golden = Callable[[str], dict[str, Any]]

GUEST_FIELDS = {
    "reservation.v1": {"guest_name": "***", "special_requests": "***"},
    "customer.v1": {"name": "***", "email": "***@***", "phone": "***"},
    "order.v2": {"notes": "***"},
    "daily_report.v1": {"submitted_by": "***"},
    "operation_log.v1": {"operator": "***"},
}
VERSIONS = [f"{kind.name}.v{version}" for kind in EVENT_TYPES.values() for version in kind.versions]


@pytest.mark.parametrize("name", VERSIONS)
def test_guest_fields_are_masked_and_nothing_else(golden: Golden, name: str) -> None:
    """The masked event differs from the stored one in its guest fields alone, and is read like any other."""
    event = golden(name)
    before = orjson.dumps(event)
    masked = registry.mask(event)
    assert masked == event | {"data": event["data"] | GUEST_FIELDS.get(name, {})}
    assert list(masked["data"]) == list(event["data"])
    assert orjson.dumps(event) == before
    kind = EVENT_TYPES[event["type"]]
    assert registry.validate_data(kind, event["schema_version"], masked["data"]) == []
    assert type(registry.read(orjson.dumps(masked))) is kind.event


@pytest.mark.parametrize("name", [name for name in VERSIONS if name not in GUEST_FIELDS])
def test_an_event_without_guest_fields_is_not_copied(golden: Golden, name: str) -> None:
    """Its bytes can be shared by both views."""
    event = golden(name)
    assert registry.mask(event) is event


@pytest.mark.parametrize("name", GUEST_FIELDS)
def test_absent_guest_fields_stay_absent(golden: Golden, name: str) -> None:
    """A mask does not tell that there was something, where there was nothing."""
    event = golden(name)
    for index, field in enumerate(GUEST_FIELDS[name]):
        if index % 2:
            del event["data"][field]
        else:
            event["data"][field] = None
    assert registry.mask(event) is event


@pytest.mark.parametrize("name", ["customer.v1", "room.v1", "order.v2"])
@pytest.mark.parametrize("version", [None, 99], ids=["known version", "newer version"])
def test_fields_of_a_newer_hub_are_left_out(golden: Golden, name: str, version: int | None) -> None:
    """A field this release does not know may name a guest."""
    event = golden(name)
    if version is not None:
        event["schema_version"] = version
    wanted = registry.mask(event)["data"]
    event = golden(name) | {"schema_version": event["schema_version"]}
    event["data"]["kana_name"] = "ヤマダ ハナコ"
    if "items" in event["data"]:
        event["data"]["items"][0]["ordered_by"] = "山田 花子"
    masked = registry.mask(event)
    assert masked["data"] == wanted
    assert "ヤマダ" not in repr(masked)
    assert "山田" not in repr(masked)


def test_the_data_of_an_unknown_type_is_left_out(golden: Golden) -> None:
    """Nothing is known of its fields."""
    event = golden("customer.v1") | {"type": "spa"}
    masked = registry.mask(event)
    assert masked == event | {"data": {}}
    assert type(registry.read(orjson.dumps(masked))) is registry.UnknownEvent


def test_masking_twice_is_masking_once(golden: Golden) -> None:
    """A view on a masked view shows the same."""
    for name in GUEST_FIELDS:
        masked = registry.mask(golden(name))
        assert registry.mask(masked) == masked
