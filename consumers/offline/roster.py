"""The desk's operators as they are kept: who, in which role, what a PIN is checked by. No I/O."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self

import orjson

from consumers.errors import ConsumerError
from consumers.offline.lockout import Attempts
from consumers.offline.pin import Cost
from consumers.offline.roles import ROLES, Role

OPERATORS: Final = "operators"
"""The name under which the roster lies in the vault."""
_FORMAT: Final = 1
_NONE: Final = Attempts()


class RosterUnreadable(ConsumerError):
    """The kept operators are damaged, or a newer release's. `Operators.start_over` begins anew; no booking is lost."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the desk's operators cannot be read ({reason}): start over with new PINs")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Lock:
    """How one PIN is checked, and the data key under it: `wrapped` opens with the key that the PIN makes."""

    salt: bytes
    cost: Cost
    verifier: bytes
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator. `lock` None: disabled, and no PIN opens anything; `attempts` are the wrong PINs in a row."""

    role: Role
    lock: Lock | None
    attempts: Attempts = _NONE


@dataclass(frozen=True, slots=True)
class Roster:
    """All operators by name."""

    operators: Mapping[str, Operator]

    def put(self, name: str, operator: Operator) -> Roster:
        """The roster with this operator, in the place of one of the same name."""
        return Roster({**self.operators, name: operator})

    def attempted(self, name: str, attempts: Attempts) -> Roster:
        """The roster with an operator's attempts."""
        return self.put(name, replace(self.operators[name], attempts=attempts))

    def managers(self) -> set[str]:
        """Who may give PINs and roles."""
        return {name for name, one in self.operators.items() if one.role == "manager" and one.lock is not None}

    def encode(self) -> bytes:
        """The roster as it is kept."""
        kept = {
            name: {
                "role": one.role,
                "lock": None if one.lock is None else _encoded(one.lock),
                "attempts": one.attempts._asdict(),
            }
            for name, one in self.operators.items()
        }
        return orjson.dumps({"format": _FORMAT, "operators": kept})

    @classmethod
    def decode(cls, kept: bytes | None) -> Self:
        """What `encode` made; None: nobody yet.

        Raises:
            RosterUnreadable: it is something else. Never taken for an empty one, which anybody could make his own.
        """
        if kept is None:
            return cls({})
        try:
            read = orjson.loads(kept)
            if read["format"] != _FORMAT:
                raise RosterUnreadable(f"format {read['format']!r}; this release knows {_FORMAT}")
            return cls({name: _operator(one) for name, one in read["operators"].items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RosterUnreadable(type(error).__name__) from error


def _encoded(lock: Lock) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(lock).items() if name != "cost"}
    return {name: b64encode(value).decode() for name, value in fields.items()} | {"cost": lock.cost._asdict()}


def _operator(read: dict[str, Any]) -> Operator:
    role = read["role"]
    if role not in ROLES:
        raise ValueError(role)
    attempts = Attempts(**read["attempts"])
    if not (attempts.wrong >= 0 and attempts.wait_s >= 0 and attempts.at >= 0 and type(attempts.boot) is str):
        raise ValueError(attempts)
    return Operator(role, None if read["lock"] is None else _lock(read["lock"]), attempts)


def _lock(read: dict[str, Any]) -> Lock:
    cost = Cost(**read["cost"])
    if not all(type(value) is int for value in cost) or not cost.sane:
        raise ValueError(cost)
    salt, verifier, wrapped = (b64decode(read[name], validate=True) for name in ("salt", "verifier", "wrapped"))
    return Lock(salt, cost, verifier, wrapped)
