"""Reads a push: checksums, forms, clocks. What cannot be taken is answered item by item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any, Final

import orjson
from pydantic import ValidationError

from hub.core import sync_models
from hub.core.format_fixes import fixed
from hub.services.publisher import MAX_EVENT_BYTES
from hub.store.sync_items import Pushed
from schemas import registry
from schemas.canonical import checksum
from schemas.errors import FieldError, Problem, invalid_event
from schemas.strict_json import Parsed
from schemas.sync import TYPES, ItemError, ItemResult, PushRequest, SyncItem, batch_crc32, entity_of
from schemas.types import read_instant

Place = tuple[int, int]
"""An item's in what its device did: the device's number, and where it stands in the batch."""

AHEAD_MS: Final = 1000
"""A moment that lies further in the future than this tells that a device's clock is ahead."""


@dataclass(frozen=True, slots=True)
class Intent:
    """An item that can be taken: as it was sent, and what it says."""

    item: SyncItem
    pushed: Pushed
    said: Mapping[str, Any]
    """The payload at its type's newest version, mended in form (R79), with the entity's id."""

    @property
    def entity(self) -> str:
        """The entity it is about."""
        return self.pushed.entity

    @property
    def uuid(self) -> str:
        """Its id, and its event's."""
        return self.pushed.uuid


def request_of(parsed: Parsed) -> PushRequest:
    """The request, its items unread.

    Raises:
        Problem: `invalid_request`, naming the field; the batch is not what was sent.
    """
    tree = parsed.tree
    if not isinstance(tree, dict):
        raise Problem("invalid_request", "a push is a JSON object with device_id, batch_crc32 and items")
    rest = {name: value for name, value in tree.items() if name != "items"}
    if errors := parsed.refusals(rest):
        raise Problem("invalid_request", f"{errors[0].path}: {errors[0].message}", errors)
    try:
        request: PushRequest = PushRequest.__pydantic_validator__.validate_python(tree)
    except ValidationError as error:
        raise registry.refused(error) from None
    sums = [one.get("checksum") if isinstance(one, dict) else None for one in request.items]
    if batch_crc32(one if isinstance(one, str) else "" for one in sums) != request.batch_crc32:
        said = "is not the CRC-32 of the items' checksums joined by line feeds; nothing was taken, send the batch again"
        raise Problem("invalid_request", f"batch_crc32: {said}", [FieldError("batch_crc32", said)])
    return request


def skew_of(request: PushRequest, now: datetime) -> int | None:
    """How many ms a device's clock is ahead of the hub's; None where nothing tells.

    A device says what its clock shows as it sends. Of one that does not, an operation from the future tells as much.
    """
    if request.sent_at is not None:
        return _ms(read_instant(request.sent_at)) - _ms(now)
    latest = max((_created(one) for one in request.items), default=0)
    ahead = latest - _ms(now)
    return ahead if ahead > AHEAD_MS else None


def _created(item: Any) -> int:
    try:
        return _ms(read_instant(item["createdAt"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0


def intent_of(
    parsed: Parsed, raw: Any, request: PushRequest, system: str, now: datetime, skew_ms: int, zone: Callable[[], tzinfo]
) -> Intent | ItemResult:
    """One item, or why it is rejected."""
    uuid = raw.get("uuid") if isinstance(raw, dict) and isinstance(raw.get("uuid"), str) else None
    try:
        if errors := parsed.refusals(raw):
            return rejected(uuid, errors)
        if not isinstance(raw, dict):
            return rejected(uuid, [FieldError("", "an item is a JSON object with uuid, model, operation and payload")])
        try:
            item: SyncItem = SyncItem.__pydantic_validator__.validate_python(raw)
        except ValidationError as error:
            return rejected(uuid, registry.field_errors(error))
        # No event holds so much; and its checksum would keep the event loop for seconds.
        if (size := len(orjson.dumps(raw["payload"]))) > MAX_EVENT_BYTES:
            return rejected(item.uuid, [FieldError("payload", f"is {size} bytes, the limit is {MAX_EVENT_BYTES}")])
        if checksum(raw["payload"]) != item.checksum:
            said = "is not the SHA-256 of this payload's canonical JSON (RFC 8785); send the item as it was made"
            return rejected(item.uuid, [FieldError("checksum", said)])
        return _read(item, request, system, now, skew_ms, zone)
    except Problem as problem:
        return rejected(uuid, problem.errors or [FieldError("", problem.detail)])
    except ValueError as error:
        return rejected(uuid, [FieldError("payload", f"has no checksum: {error}")])


def _read(
    item: SyncItem, request: PushRequest, system: str, now: datetime, skew_ms: int, zone: Callable[[], tzinfo]
) -> Intent:
    payload, _ = fixed(TYPES[item.model], item.payload, zone(), item.schema_version)
    entity_id = _bare(item.model, item.entity_id)
    said = sync_models.said(item.model, item.operation, entity_id, payload, item.schema_version)
    type = sync_models.type_of(item.model, item.operation)
    if errors := sync_models.misfits(type, said):
        raise invalid_event(errors)
    created = _ms(read_instant(item.createdAt)) - skew_ms
    pushed = Pushed(
        item.uuid,
        request.device_id,
        item.device_sequence,
        system,
        item.model,
        item.operation,
        item.action,
        type,
        entity_of(item.model, entity_id),
        item.checksum,
        item.base_version,
        said,
        item.createdAt,
        # Nothing was done in the future.
        min(created, _ms(now)),
    )
    return Intent(item, pushed, said)


def _bare(model: str, entity_id: str) -> str:
    prefix = entity_of(model, "")
    if entity_id.startswith(prefix) and len(entity_id) > len(prefix):
        # As `entity` of what was pulled says it.
        return entity_id.removeprefix(prefix)
    return entity_id


def about(raw: Any) -> str | None:
    """The entity that an item means to be about, whatever else is wrong with it; None where that is not told."""
    if not isinstance(raw, dict):
        return None
    model, entity_id = raw.get("model"), raw.get("entity_id")
    if not isinstance(model, str) or model not in TYPES or not isinstance(entity_id, str):
        return None
    return entity_of(model, _bare(model, entity_id))


def number_of(raw: Any) -> int | None:
    """The device's number of an item, whatever else is wrong with it; None where it has none."""
    number = raw.get("device_sequence") if isinstance(raw, dict) else None
    return number if type(number) is int and 0 < number <= 2**53 else None


def order_of(items: Sequence[Any]) -> list[Place]:
    """Each item's place in what its device did: by its number, however they stand in the batch. One without a number
    follows what stands before it."""
    places: list[Place] = []
    number = 0
    for index, item in enumerate(items):
        number = number_of(item) or number
        places.append((number, index))
    return places


def rejected(uuid: str | None, errors: Any) -> ItemResult:
    """The answer for an item that will never fit as it stands."""
    return answer(uuid, "rejected", errors)


def answer(uuid: str | None, outcome: Any, errors: Any) -> ItemResult:
    """A result that names fields."""
    named = [ItemError(path=one.path, message=one.message) for one in errors]
    return ItemResult(uuid=uuid, outcome=outcome, errors=named or None)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
