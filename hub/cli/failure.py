"""What a command ends with when it cannot do its work."""

from __future__ import annotations

from hub.errors import HubError


class CommandError(HubError):
    """The command failed: what is wrong, and what to do about it."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(sentences(message, fix))
        self.message = message
        self.fix = fix


class UsageError(CommandError):
    """The command was called in a way it does not understand; exit code 2."""


def sentences(*parts: str) -> str:
    """The parts as sentences on one line, each with one full stop."""
    said = [part.strip() for part in parts if part.strip()]
    return " ".join(part if part[-1] in ".?!" else f"{part}." for part in said)
