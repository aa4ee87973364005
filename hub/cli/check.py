"""What `hub doctor` says of one thing it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `fix` says what to do unless it is ok."""

    name: str
    status: Status
    detail: str
    fix: str = ""

    def to_dict(self) -> dict[str, str]:
        """As JSON says it."""
        return {"name": self.name, "status": self.status, "detail": self.detail, "fix": self.fix}
