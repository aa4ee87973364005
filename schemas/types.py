"""Field types the event schemas share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

HOTEL_PMS: Final = "hotel-pms"
HOTEL_SAAS: Final = "hotel-saas"
HOTEL_MEMBER: Final = "hotel-member"
HUB: Final = "hub"
"""The hub itself and its operators' tools: not bound by an event's `targets`."""

SYSTEMS: Final = (HOTEL_MEMBER, HOTEL_PMS, HOTEL_SAAS)

SYSTEM_FORM: Final = r"^[a-z][a-z0-9-]{1,62}$"
TENANT_FORM: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
# No spaces and no control characters: ids stand in Redis hash fields, log lines and terminals.
_ID: Final = r"[^\s\x00-\x1f\x7f-\x9f]{1,128}"
ENTITY_FORM: Final = rf"^[a-z_]{{1,32}}:{_ID}$"


@dataclass(frozen=True, slots=True)
class Guest:
    """Marks a field that identifies a guest; a token with `view: masked` reads `mask` in its place."""

    mask: str = "***"

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Show the mark in the published schema."""
        return handler(schema) | {"x-guest": True}


MONEY_DIGITS: Final = 15
MONEY_DECIMALS: Final = 4
_BEYOND: Final = 10**MONEY_DIGITS
_SMALLEST: Final = Decimal(1).scaleb(-MONEY_DECIMALS)


def exact(value: int | float) -> Decimal:
    """A JSON number as the decimal that was written."""
    return Decimal(repr(value))


def json_number(value: Decimal) -> int | float:
    """A money amount as the JSON number that stands for it: exact within 15 digits."""
    return int(value) if value == value.to_integral_value() else float(value)


def fits_money(value: Decimal) -> bool:
    """Whether `value` needs no more than 15 digits and 4 decimals; zeros at either end do not count."""
    if not value.is_finite() or value.adjusted() >= MONEY_DIGITS:
        return False
    short = value.quantize(_SMALLEST).normalize()
    whole, decimals = max(0, short.adjusted() + 1), max(0, -int(short.as_tuple().exponent))
    return short == value and whole + decimals <= MONEY_DIGITS


def _money(value: Any) -> Any:
    if type(value) is float:
        text = repr(value)
        whole, _, decimals = text.partition(".")
        if len(decimals) <= MONEY_DECIMALS and len(whole) + len(decimals) <= MONEY_DIGITS and "e" not in text:
            return Decimal(text)
    elif type(value) is int and -_BEYOND < value < _BEYOND:
        return Decimal(value)
    number = exact(value) if type(value) is float or type(value) is int else value
    if not isinstance(number, Decimal):
        raise ValueError("money is a JSON number")
    if not fits_money(number):
        raise ValueError(f"money has at most {MONEY_DIGITS} digits, {MONEY_DECIMALS} of them decimals")
    return number


_MONEY_SCHEMA: Final[dict[str, Any]] = {
    "type": "number",
    "minimum": 1 - 10**MONEY_DIGITS,
    "maximum": 10**MONEY_DIGITS - 1,
    "description": f"At most {MONEY_DIGITS} digits, {MONEY_DECIMALS} of them decimals",
}

Money = Annotated[
    Decimal,
    BeforeValidator(_money),
    PlainSerializer(json_number, return_type=int | float, when_used="json"),
    WithJsonSchema(_MONEY_SCHEMA),
]
"""Decimal inside, a JSON number of at most 15 digits and 4 decimals on the wire."""

Price = Annotated[Money, Field(ge=0), WithJsonSchema(_MONEY_SCHEMA | {"minimum": 0})]
"""Money that is never negative."""

CURRENCY_FORM: Final = r"^[A-Z]{3}$"
Currency = Annotated[str, Field(pattern=CURRENCY_FORM, description="ISO 4217; the tenant's when absent")]
SystemName = Annotated[str, Field(pattern=SYSTEM_FORM)]
TenantId = Annotated[str, Field(pattern=TENANT_FORM)]
EntityId = Annotated[str, Field(pattern=f"^{_ID}$")]
UUID_FORM: Final = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
DEVICE_FORM: Final = "^[!-~]+$"
SHA256_FORM: Final = "^[0-9a-f]{64}$"
FORMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        f"^{_ID}$": "must be 1 to 128 characters without spaces or control characters",
        ENTITY_FORM: "must be a type and an id without spaces, like reservation:R1",
        TENANT_FORM: "must be 1 to 64 letters, digits, dots, dashes or underscores, with a letter or digit first",
        UUID_FORM: "must be a UUID, like 0190b6a2-0000-7000-8000-000000000001",
        DEVICE_FORM: "must be visible ASCII characters without spaces",
        SHA256_FORM: "must be a SHA-256 in 64 hex digits, small letters",
    }
)
"""Patterns in words, for whoever has to mend what does not match."""
Label = Annotated[str, Field(min_length=1, max_length=128)]
Note = Annotated[str, Field(max_length=4000)]

DAY_MESSAGE: Final = "must be a date like 2026-07-15"
INSTANT_MESSAGE: Final = "must be an ISO 8601 instant with an offset, like 2026-07-15T10:04:00+09:00"
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_INSTANT: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:\d{2})", re.ASCII)
# Their UTC, or their local time, falls outside what datetimes can say.
_EDGE_YEARS: Final = ("0000", "0001", "9999")


# The parsers of pydantic and `datetime` take many spellings, Unix times among them, and not the same ones: on the bus
# there is one that everyone reads alike.


def _natively(form: str, value: CoreSchema, message: str) -> type:
    """How pydantic reads JSON text of one spelling without coming back to Python: each event has a handful of these."""

    class Spelled:
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
            text = core_schema.chain_schema([core_schema.str_schema(pattern=f"^{form}$", strict=True), value])
            return core_schema.json_or_python_schema(
                json_schema=core_schema.custom_error_schema(text, "spelling", custom_error_message=message),
                python_schema=handler(source),
            )

        @classmethod
        def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
            return handler(value)

    return Spelled


def read_day(value: Any) -> date:
    """A plain date from text like 2026-07-15, or as it is.

    Raises:
        ValueError: it is anything else.
    """
    if isinstance(value, str) and _DAY.fullmatch(value):
        return date.fromisoformat(value)
    if type(value) is date:
        return value
    raise ValueError(DAY_MESSAGE)


def read_instant(value: Any) -> datetime:
    """A moment from ISO 8601 text with an offset, or as it is.

    Raises:
        ValueError: it is anything else, or no such moment exists.
    """
    if isinstance(value, str) and _INSTANT.fullmatch(value) and not value.startswith(_EDGE_YEARS):
        return datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return value
    raise ValueError(INSTANT_MESSAGE)


_YEAR: Final = "(000[2-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-8][0-9]{3}|9[0-8][0-9]{2}|99[0-8][0-9]|999[0-8])"
Instant = Annotated[
    AwareDatetime,
    BeforeValidator(read_instant),
    _natively(
        f"{_YEAR}-[0-9]{{2}}-[0-9]{{2}}T[0-9]{{2}}:[0-9]{{2}}(:[0-9]{{2}}([.][0-9]{{1,9}})?)?(Z|[+-][0-9]{{2}}:[0-9]{{2}})",
        core_schema.datetime_schema(tz_constraint="aware", strict=False),
        INSTANT_MESSAGE,
    ),
]
Day = Annotated[
    date,
    BeforeValidator(read_day),
    _natively("[0-9]{4}-[0-9]{2}-[0-9]{2}", core_schema.date_schema(strict=False), DAY_MESSAGE),
]
"""A plain date in the property's own calendar."""

GuestName = Annotated[str, Field(min_length=1, max_length=256), Guest()]
GuestEmail = Annotated[str, Field(max_length=254, pattern=r"^[^@\s]+@[^@\s]+$"), Guest("***@***")]
GuestPhone = Annotated[str, Field(max_length=40), Guest()]
GuestNote = Annotated[str, Field(max_length=4000), Guest()]


class Model(BaseModel):
    """Strict and closed: no coercion, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class Tracked(Model):
    """Source tracking (R12). The hub fills in what is absent; `updated_by_system` is always the credential's system."""

    origin_system: SystemName | None = None
    updated_by_system: SystemName | None = None
    synced_at: Instant | None = None


TRACKING: Final = frozenset(Tracked.model_fields)
"""The fields by which the hub says whose data they are."""
