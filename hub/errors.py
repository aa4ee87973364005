"""The hub's own failures. What a request is refused with is `schemas.errors.Problem`."""

from __future__ import annotations


class HubError(Exception):
    """Root of the hub's errors."""


class StartError(HubError):
    """The hub cannot start as it is set up: what is wrong, and what to do about it."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message}. {fix}")
        self.message = message
        self.fix = fix
