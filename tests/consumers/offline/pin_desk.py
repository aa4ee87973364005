"""A desk's vault that outlives restarts, and time that only the test moves."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson

from consumers.offline.operators import Operators
from consumers.offline.pin import Cost

CHEAP = Cost(n=2, r=1, p=1)
BOSS, BOSS_PIN = "責任者", "7391"
CLERK, CLERK_PIN = "佐藤", "5820"


class Disk:
    """A vault in memory; `broken` lets no more writes through."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.broken: Exception | None = None

    def get(self, name: str) -> bytes | None:
        return self.values.get(name)

    def put(self, name: str, value: bytes | None) -> None:
        if self.broken is not None:
            raise self.broken
        if value is None:
            self.values.pop(name, None)
        else:
            self.values[name] = value


class Machine:
    """The uptime of a machine that boots when the test says so."""

    def __init__(self) -> None:
        self.boots = 1
        self.at = 1000.0

    @property
    def boot(self) -> str:
        return f"boot-{self.boots}"

    def seconds(self) -> float:
        return self.at

    def pass_by(self, seconds: float) -> None:
        self.at += seconds

    def reboot(self) -> None:
        self.boots += 1
        self.at = 5.0


@dataclass
class PinDesk:
    """One desk: its disk, its machine, its clock on the wall."""

    disk: Disk = field(default_factory=Disk)
    machine: Machine = field(default_factory=Machine)
    wall: datetime = datetime(2026, 7, 15, 10, 0, tzinfo=UTC)

    def start(self) -> Operators:
        """The program starts: as at every start, the operators are listed."""
        operators = Operators(self.disk, idle_s=900.0, cost=CHEAP, uptime=self.machine, now=lambda: self.wall)
        operators.all()
        return operators

    def staffed(self) -> Operators:
        """With a manager and a clerk."""
        operators = self.start()
        operators.enrol(BOSS, BOSS_PIN, "manager", by=None)
        operators.enrol(CLERK, CLERK_PIN, "front_desk", by=operators.sign_in(BOSS, BOSS_PIN))
        return operators


def jwt(expires_at: datetime, **claims: object) -> str:
    """A token as the issuer makes them; the signature is nobody's."""
    body = orjson.dumps({"exp": int(expires_at.timestamp()), **claims})
    return ".".join(urlsafe_b64encode(part).decode().rstrip("=") for part in (b'{"alg":"EdDSA"}', body, b"signature"))
