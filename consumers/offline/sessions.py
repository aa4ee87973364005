"""Somebody signed in at the desk: who, in which role, until they have done nothing for a while."""

from __future__ import annotations

import threading
from datetime import datetime
from typing import Final

from consumers.errors import ConsumerError
from consumers.offline import roles
from consumers.offline.lockout import Uptime
from consumers.offline.roles import Feature, Role
from consumers.offline.vault import Secrets

IDLE_S: Final = 15 * 60.0
"""Seconds without an operation after which a session ends, default: a desk is left alone now and then."""


class SessionEnded(ConsumerError):
    """The operator signed out, did nothing for too long, or lost the right to be here: it takes the PIN again."""

    def __init__(self, operator: str) -> None:
        super().__init__(f"the session of {operator} has ended: sign in with your PIN")
        self.operator = operator


class Session:
    """One operator at the desk. Thread-safe. Its secrets are locked once it has ended.

    Idle time is measured by `Uptime`: setting the clock neither ends a session nor keeps it going.
    """

    def __init__(
        self, operator: str, role: Role, secrets: Secrets, *, signed_in_at: datetime, uptime: Uptime, idle_s: float
    ) -> None:
        """Use `consumers.offline.operators`."""
        self.operator = operator
        self.role = role
        self.signed_in_at = signed_in_at
        self._secrets = secrets
        self._uptime = uptime
        self._idle_s = idle_s
        self._touched = uptime.seconds()
        self._ended = False
        self._lock = threading.Lock()

    @property
    def ended(self) -> bool:
        """Whether it is over; it never comes back."""
        with self._lock:
            return self._over()

    @property
    def idle_left_s(self) -> float:
        """Seconds until it ends if nothing is done; 0 once it has ended."""
        with self._lock:
            return 0.0 if self._over() else self._idle_s - (self._uptime.seconds() - self._touched)

    def touch(self) -> None:
        """The operator did something: the idle time begins again.

        Raises:
            SessionEnded: too late.
        """
        with self._lock:
            if self._over():
                raise SessionEnded(self.operator)
            self._touched = self._uptime.seconds()

    def may(self, feature: Feature, *, online: bool) -> bool:
        """Whether the operator may use a feature now."""
        return not self.ended and roles.may(self.role, feature, online=online)

    def require(self, *features: Feature, online: bool) -> None:
        """The operator does something that takes these rights (`consumers.offline.roles.needed`).

        Raises:
            SessionEnded: it takes the PIN first.
            NotAllowed: the role may not, or not while the hub is not reached.
        """
        self.touch()
        for feature in features:
            roles.require(self.role, feature, online=online)

    @property
    def secrets(self) -> Secrets:
        """What is sealed under the desk's data key.

        Raises:
            SessionEnded: it takes the PIN first.
        """
        if self.ended:
            raise SessionEnded(self.operator)
        return self._secrets

    def end(self) -> None:
        """Sign out. May be called twice."""
        with self._lock:
            self._end()

    def _over(self) -> bool:
        if not self._ended and self._uptime.seconds() - self._touched >= self._idle_s:
            self._end()
        return self._ended

    def _end(self) -> None:
        self._ended = True
        self._secrets.lock()
