"""Who and what takes part in a made-up hotel day: invented guests, rooms, menus, and a stay as it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any, Final

ROOM_TYPES: Final = (("single", 9_000), ("twin", 14_000), ("double", 16_000), ("single", 9_000), ("suite", 32_000))
GUESTS: Final = (
    ("佐藤 一郎", "sato.ichiro"),
    ("鈴木 由美", "suzuki.yumi"),
    ("高橋 大輔", "takahashi.daisuke"),
    ("田中 美咲", "tanaka.misaki"),
    ("伊藤 翔太", "ito.shota"),
    ("渡辺 恵子", "watanabe.keiko"),
    ("加藤 拓也", "kato.takuya"),
    ("吉田 さくら", "yoshida.sakura"),
    ("Anna Schmidt", "anna.schmidt"),
    ("James Miller", "james.miller"),
    ("Chen Wei", "chen.wei"),
    ("Marie Laurent", "marie.laurent"),
)
MENU: Final = (("club sandwich", 1_500), ("beef curry", 1_800), ("pot of coffee", 800), ("beer", 900), ("udon", 1_200))
BREAKFAST: Final = (("Japanese breakfast", 2_200), ("Western breakfast", 2_000), ("pot of coffee", 800))
AGENCIES: Final = ("rakuten_travel", "jalan", "booking_com", "expedia", "agoda")
PAYMENTS: Final = ("credit_card", "cash", "qr_code")


@dataclass(frozen=True, slots=True)
class Room:
    """A room and its price a night."""

    number: str
    type: str
    price: int


@dataclass(slots=True)
class Stay:
    """A reservation as the day's story goes on."""

    reservation_id: str
    room: Room
    checkin: date
    checkout: date
    guest: str
    mailbox: str
    adults: int
    origin: str
    booker: str
    channel: str | None = None
    customer_id: str | None = None
    points: int = 0
    status: str = "confirmed"
    numbered: bool = False
    """Whether the room's number is known to the reservation already."""
    extras: int = 0
    """Charged to the room so far, beside the nights."""

    @property
    def total(self) -> int:
        """What the nights cost."""
        return self.room.price * (self.checkout - self.checkin).days

    def data(self) -> dict[str, Any]:
        """As `schemas.reservation.ReservationData` reads it."""
        known = {
            "customer_id": self.customer_id,
            "room_number": self.room.number if self.numbered else None,
            "channel": self.channel,
        }
        return {
            "reservation_id": self.reservation_id,
            "room_type": self.room.type,
            "checkin_date": self.checkin.isoformat(),
            "checkout_date": self.checkout.isoformat(),
            "total_amount": self.total,
            "status": self.status,
            "origin": self.origin,
            "guest_name": self.guest,
            "adults": self.adults,
        } | {name: value for name, value in known.items() if value is not None}
