"""What works while the desk is offline (R64-R69), by system and role, and how the screen says so (R98)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from consumers.errors import ConsumerError
from consumers.offline.roles import Feature, Role, may
from consumers.offline.status import NOT_AVAILABLE, Text
from schemas.types import HOTEL_MEMBER, HOTEL_PMS, HOTEL_SAAS

Level = Literal["full", "limited", "unavailable"]

UNAVAILABLE: Final = Text(NOT_AVAILABLE, "Not available while offline")
FORBIDDEN: Final = Text("権限がないため使用不可", "Not allowed for your role")

LABELS: Final[Mapping[Feature, Text]] = MappingProxyType(
    {
        "check_in": Text("チェックイン", "Check-in"),
        "check_in_cancel": Text("チェックイン・チェックアウト取消", "Undo check-in or check-out"),
        "check_out": Text("チェックアウト", "Check-out"),
        "no_show": Text("ノーショー", "No-show"),
        "reservations": Text("予約", "Reservations"),
        "customers": Text("顧客情報", "Guest profiles"),
        "points": Text("ポイント", "Points"),
        "new_members": Text("新規会員登録", "New members"),
        "orders": Text("ルームサービス注文", "Room-service orders"),
        "stock": Text("商品在庫", "Stock"),
        "charges": Text("料金計上", "Charges"),
        "settlement": Text("精算・領収書", "Settlement and receipt"),
        "refund": Text("返金", "Refunds"),
        "correction": Text("会計訂正", "Corrections of bills"),
        "external_payment": Text("外部決済", "External payment"),
        "room_status": Text("客室状態", "Room status"),
        "maintenance": Text("客室メンテナンス", "Room maintenance"),
        "room_price": Text("客室料金変更", "Room prices"),
        "live_stock": Text("客室在庫", "Room availability"),
        "ota_stock": Text("OTA在庫", "OTA stock"),
        "other_systems": Text("他システムの情報", "Other systems' data"),
        "daily_report": Text("日報", "Daily report"),
        "alerts": Text("アラート", "Alerts"),
        "forms": Text("帳票印刷・CSV出力", "Forms, print and CSV"),
        "sync_failures": Text("同期失敗一覧", "Sync failures"),
        "conflicts": Text("競合の解決", "Conflicts"),
        "operators": Text("担当者とPINの管理", "Operators and PINs"),
    }
)


class UnknownSystem(ConsumerError):
    """There is no table of what works offline for this system."""

    def __init__(self, system: str) -> None:
        super().__init__(f"system: {system!r} is none of {', '.join(OFFLINE)}")
        self.system = system


class Offline(NamedTuple):
    """What is left of a feature offline. `note` says how it is limited, or what happens to it on recovery."""

    level: Level
    note: Text | None = None


_FULL: Final = Offline("full")
_NONE: Final = Offline("unavailable")
_HELD: Final = Offline("full", Text("復旧時に送信します", "Sent when the connection is back"))
_AS_SYNCED: Final = Offline(
    "limited", Text("最終同期時点の情報です", "As of the last sync; what others did since then is not in it")
)
_MAY_CLASH: Final = Offline(
    "limited",
    Text(
        "在庫は最終同期時点です。復旧時に競合する場合があります",
        "Availability is as of the last sync; it may turn out to conflict with others' bookings",
    ),
)
_CACHED_POINTS: Final = Offline(
    "limited",
    Text("最終同期時点の残高内で利用できます", "Within the balance as of the last sync"),
)
_ESTIMATED: Final = Offline(
    "limited",
    Text("概算です。同期時にPMSで確定します", "Estimated; confirmed with the front desk on sync"),
)
_LATE_PRICE: Final = Offline(
    "limited", Text("OTAへは復旧後に反映されます", "Reaches the OTAs when the connection is back")
)
_SENT_AGAIN: Final = Offline(
    "limited", Text("再送信は復旧時に行われます", "Items are sent again when the connection is back")
)

OFFLINE: Final[Mapping[str, Mapping[Feature, Offline]]] = MappingProxyType(
    {
        # R64 in full, R65 within what was synced, R67 not at all.
        HOTEL_PMS: MappingProxyType(
            {
                "check_in": _FULL,
                "check_in_cancel": _FULL,
                "check_out": _FULL,
                "no_show": _FULL,
                "settlement": _FULL,
                "charges": _FULL,
                "refund": _FULL,
                "correction": _FULL,
                "orders": _FULL,
                "room_status": _FULL,
                "maintenance": _FULL,
                "daily_report": _FULL,
                "forms": _FULL,
                "alerts": _HELD,
                "reservations": _MAY_CLASH,
                "live_stock": _AS_SYNCED,
                "other_systems": _AS_SYNCED,
                "customers": _AS_SYNCED,
                "points": _CACHED_POINTS,
                "room_price": _LATE_PRICE,
                "sync_failures": _SENT_AGAIN,
                "operators": _FULL,
                "new_members": _NONE,
                "external_payment": _NONE,
                "ota_stock": _NONE,
                "conflicts": _NONE,
            }
        ),
        # R68: orders go on and stock with them; charges are estimates until the front desk has them.
        HOTEL_SAAS: MappingProxyType(
            {
                "orders": _FULL,
                "stock": _FULL,
                "forms": _FULL,
                "alerts": _HELD,
                "charges": _ESTIMATED,
                "other_systems": _AS_SYNCED,
                "customers": _AS_SYNCED,
                "sync_failures": _SENT_AGAIN,
                "operators": _FULL,
                "external_payment": _NONE,
                "conflicts": _NONE,
            }
        ),
        # R69: what is there already, from the cache.
        HOTEL_MEMBER: MappingProxyType(
            {
                "customers": _AS_SYNCED,
                "points": _CACHED_POINTS,
                "reservations": _MAY_CLASH,
                "other_systems": _AS_SYNCED,
                "forms": _FULL,
                "alerts": _HELD,
                "sync_failures": _SENT_AGAIN,
                "operators": _FULL,
                "new_members": _NONE,
                "external_payment": _NONE,
                "conflicts": _NONE,
            }
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Capability:
    """What somebody can do with one feature now. `note`: why not, how it is limited, or what becomes of it; or None."""

    name: Feature
    label: Text
    level: Level
    note: Text | None = None

    @property
    def available(self) -> bool:
        """Whether it can be used; else it is greyed (R98)."""
        return self.level != "unavailable"

    @property
    def degraded(self) -> bool:
        """Whether it can be used, but not as online."""
        return self.level == "limited"

    @property
    def reason_ja(self) -> str | None:
        """The note in Japanese."""
        return None if self.note is None else self.note.ja

    @property
    def reason_en(self) -> str | None:
        """The note in English."""
        return None if self.note is None else self.note.en


def capabilities(system: str, *, online: bool, role: Role) -> list[Capability]:
    """All features of a system's desk, in the order of its screen, with what a role can do with each now.

    Raises:
        UnknownSystem: neither hotel-pms, hotel-saas nor hotel-member.
    """
    return [_capability(name, offline, online, role) for name, offline in _table(system).items()]


def capability(system: str, name: Feature, *, online: bool, role: Role) -> Capability:
    """One of `capabilities`; a feature that the system's desk does not have is unavailable.

    Raises:
        UnknownSystem: neither hotel-pms, hotel-saas nor hotel-member.
    """
    offline = _table(system).get(name)
    if offline is None:
        note = Text("このシステムにはない機能です", f"{system} has no such function")
        return Capability(name, LABELS[name], "unavailable", note)
    return _capability(name, offline, online, role)


def _table(system: str) -> Mapping[Feature, Offline]:
    try:
        return OFFLINE[system]
    except KeyError:
        raise UnknownSystem(system) from None


def _capability(name: Feature, offline: Offline, online: bool, role: Role) -> Capability:
    label = LABELS[name]
    if not may(role, name, online=True):
        return Capability(name, label, "unavailable", FORBIDDEN)
    if online:
        return Capability(name, label, "full")
    if offline.level == "unavailable" or not may(role, name, online=False):
        return Capability(name, label, "unavailable", UNAVAILABLE)
    return Capability(name, label, offline.level, offline.note)
