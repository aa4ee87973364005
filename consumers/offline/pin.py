"""PINs: which ones will do, and the slow key that is made of one. No I/O.

A PIN keeps the next person at the desk out, with the growing wait of `consumers.offline.lockout`. Against somebody who
has a copy of the disk it only buys time: a PIN of 4 digits has 10,000 values, at a tenth of a second each. Where disks
can be carried away they want encryption of their own, and the PINs more digits.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from typing import Final, NamedTuple

from consumers.errors import ConsumerError

SHORTEST: Final = 4
LONGEST: Final = 12
SALT_BYTES: Final = 16

_UP: Final = "01234567890123456789012"
_COMMON: Final = frozenset({"2580", "0852", "1357", "2468", "7531", "8642", "1122", "159357", "147258", "147258369"})
"""Rows on a keypad and the like, which the rules below let through."""


class InvalidPin(ConsumerError):
    """A PIN cannot be one, or is one that anybody would try. Never holds the PIN. `reason` is for the operator."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"pin: {reason}")
        self.reason = reason


class Cost(NamedTuple):
    """What scrypt (RFC 7914) takes for one PIN: 128·n·r bytes of memory, and time with n·r·p.

    The default takes 32 MiB and about a tenth of a second on a desk's computer.
    """

    n: int = 2**15
    r: int = 8
    p: int = 1

    @property
    def sane(self) -> bool:
        """Whether a stored cost may be worked with: a damaged one must not eat the machine."""
        return 2 <= self.n <= 2**20 and self.n & (self.n - 1) == 0 and 1 <= self.r <= 32 and 1 <= self.p <= 16


class PinKeys(NamedTuple):
    """What a PIN and a salt come to: `verifier` may be stored, `wrapping` opens the data key and never is."""

    verifier: bytes
    wrapping: bytes

    def __repr__(self) -> str:
        return "PinKeys(…)"

    def verifies(self, stored: bytes) -> bool:
        """Whether it is the PIN that `stored` was made of. Takes the same time either way."""
        return hmac.compare_digest(self.verifier, stored)


def plain(typed: str) -> str:
    """A typed PIN as ASCII digits: a Japanese keyboard may give full-width ones (１２３４).

    Raises:
        InvalidPin: it is not 4 to 12 digits.
    """
    pin = unicodedata.normalize("NFKC", typed).strip()
    if not (pin.isascii() and pin.isdigit() and SHORTEST <= len(pin) <= LONGEST):
        raise InvalidPin(f"{SHORTEST} to {LONGEST} digits and nothing else")
    return pin


def chosen(typed: str, operator: str) -> str:
    """A PIN that an operator chose, as ASCII digits.

    Raises:
        InvalidPin: it is not 4 to 12 digits, or anybody would try it.
    """
    pin = plain(typed)
    if reason := _trivial(pin, operator):
        raise InvalidPin(f"{reason}; choose another one")
    return pin


def _trivial(pin: str, operator: str) -> str | None:
    for period in range(1, len(pin) // 2 + 1):
        if len(pin) % period == 0 and pin == pin[:period] * (len(pin) // period):
            return "the same digits over and over are too easy to guess"
    if pin in _UP or pin in _UP[::-1]:
        return "digits in a row are too easy to guess"
    if pin in _COMMON:
        return "it is among the first that anybody tries"
    if len(pin) == 4 and pin[:2] in ("19", "20"):
        return "a year is too easy to guess"
    number = "".join(filter(str.isdigit, unicodedata.normalize("NFKC", operator)))
    if pin == number:
        return "it is the operator's own number"
    return None


def keys_of(pin: str, salt: bytes, cost: Cost) -> PinKeys:
    """The keys of a PIN (`plain`). Takes as long as `cost` says: not for an event loop's thread."""
    root = hashlib.scrypt(
        pin.encode("ascii"),
        salt=salt,
        n=cost.n,
        r=cost.r,
        p=cost.p,
        maxmem=128 * cost.r * (cost.n + cost.p + 2) + 2**20,
        dklen=32,
    )
    return PinKeys(_expanded(root, b"hotel-desk pin verifier"), _expanded(root, b"hotel-desk pin wrapping"))


def _expanded(root: bytes, what: bytes) -> bytes:
    """HKDF-Expand (RFC 5869) to one block: neither output tells the other."""
    return hmac.digest(root, what + b"\x01", "sha256")
