"""The desk's operators: each with a PIN and a role of their own, checked without the hub (R90).

A desk has one data key, 32 random bytes that lie nowhere in the clear: each operator has it wrapped under a key made of
the PIN. So a right PIN is what opens the secrets (token, credential), and no check in the program has to be believed.

What it protects: at the desk, PINs are tried at the pace of `consumers.offline.lockout`, whatever is restarted and
however the clock is set; a wrong PIN is counted, durably, before it is checked. In the file, secrets cannot be read
without a PIN, nor roles or secrets be changed unseen. What it does not: who has a copy of the file can try PINs as fast
as scrypt goes, and who can write it can put back an older copy, with a PIN that was changed since or an operator
disabled since. The bookings themselves are not sealed.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple, ParamSpec, TypeVar

import structlog

from consumers.errors import ConsumerError
from consumers.offline.lockout import Attempts, SystemUptime, Uptime, counted, left_s, served
from consumers.offline.pin import SALT_BYTES, Cost, InvalidPin, chosen, keys_of, plain
from consumers.offline.roles import ROLES, NotAllowed, Role
from consumers.offline.roster import OPERATORS, Lock, Operator, Roster
from consumers.offline.sessions import IDLE_S, Session
from consumers.offline.vault import (
    KEY_BYTES,
    SECRETS,
    Local,
    Secrets,
    ThreadVault,
    Vault,
    cipher,
    seal,
    unseal,
)

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_NAME: Final = re.compile(r"[^\s\x00-\x1f\x7f-\x9f](?:[^\x00-\x1f\x7f-\x9f]{0,62}[^\s\x00-\x1f\x7f-\x9f])?")
_COST: Final = Cost()


class InvalidOperator(ConsumerError):
    """A name or a role cannot be."""

    def __init__(self, field: str, wanted: str) -> None:
        super().__init__(f"{field}: must be {wanted}")
        self.field = field


class UnknownOperator(ConsumerError):
    """The desk has no such operator. Names are shown on the desk's screen: they are no secret."""

    def __init__(self, operator: str) -> None:
        super().__init__(f"this desk has no operator {operator!r}")
        self.operator = operator


class OperatorDisabled(ConsumerError):
    """The operator may not sign in any more; a manager may give a new PIN."""

    def __init__(self, operator: str) -> None:
        super().__init__(f"operator {operator!r} is disabled: a manager may give a new PIN")
        self.operator = operator


class WrongPin(ConsumerError):
    """The PIN is not the operator's. `wrong` in a row by now; the next one has to wait `wait_s` seconds."""

    def __init__(self, operator: str, wrong: int, wait_s: float) -> None:
        wait = f"; the next one in {wait_s:.0f} s" if wait_s else ""
        super().__init__(f"wrong PIN for {operator!r}, {wrong} in a row{wait}")
        self.operator = operator
        self.wrong = wrong
        self.wait_s = wait_s


class PinMustWait(ConsumerError):
    """After too many wrong PINs none is checked for `wait_s` seconds yet, right or wrong."""

    def __init__(self, operator: str, wait_s: float) -> None:
        super().__init__(f"too many wrong PINs for {operator!r}: wait {wait_s:.0f} s")
        self.operator = operator
        self.wait_s = wait_s


class LastManager(ConsumerError):
    """Without this one nobody could give PINs and roles any more."""

    def __init__(self, operator: str) -> None:
        super().__init__(f"{operator!r} is the only manager of this desk: make another one first")
        self.operator = operator


class OperatorInfo(NamedTuple):
    """One operator, as the desk's screen lists them. `wait_s`: until the next PIN is checked."""

    name: str
    role: Role
    disabled: bool
    wrong: int
    wait_s: float


class Operators:
    """The operators of one desk. Thread-safe; one object per vault. Its methods take as long as scrypt: see
    `DeskOperators` for an event loop.

    Every method may raise `RosterUnreadable`, and what the vault raises: then nothing was changed, and nobody is let
    in whose attempt could not be counted.
    """

    def __init__(
        self,
        vault: Vault,
        *,
        idle_s: float = IDLE_S,
        cost: Cost = _COST,
        uptime: Uptime | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`idle_s`: seconds after which a session without an operation ends. `now` only dates sessions.

        Raises:
            CryptographyMissing: the extra `offline` is not installed.
        """
        cipher(bytes(KEY_BYTES))
        if not idle_s > 0:
            raise ValueError(f"idle_s: must be more than 0 seconds, not {idle_s}")
        if not cost.sane:
            raise ValueError(f"cost: n a power of two up to 2**20, r up to 32, p up to 16; not {cost}")
        self._vault = vault
        self._idle_s = idle_s
        self._cost = cost
        self._uptime: Uptime = SystemUptime() if uptime is None else uptime
        self._now = now
        # Held while a PIN is checked: two attempts at once may not be counted as one, nor take twice the memory.
        self._lock = threading.RLock()
        self._secrets_lock = threading.RLock()
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()

    # -- who ----------------------------------------------------------------------------------------------------------

    def all(self) -> list[OperatorInfo]:
        """Everybody, by name. Empty: the desk is new, and `enrol` takes its first manager.

        To be called once at the start: a wait that a reboot cut off goes on from here.
        """
        with self._lock:
            at = self._uptime.seconds()
            return [
                OperatorInfo(
                    name, one.role, one.lock is None, one.attempts.wrong, left_s(one.attempts, self._uptime.boot, at)
                )
                for name, one in sorted(self._roster().operators.items())
            ]

    def sign_in(self, operator: str, pin: str) -> Session:
        """Check a PIN and open a session; the wrong PINs before it are forgotten.

        Raises:
            WrongPin: it was counted.
            PinMustWait: it was not checked, nor counted.
            InvalidPin: it cannot be a PIN, and was not counted.
            UnknownOperator, OperatorDisabled: no PIN can be right.
            SealBroken: the PIN is right, but what lies under it was tampered with. A manager may give a new PIN.
        """
        with self._lock:
            role, key = self._checked(operator, plain(pin))
            return self._session(operator, role, key)

    def change_pin(self, operator: str, old: str, new: str) -> None:
        """Give oneself another PIN. Sessions go on. Raises what `sign_in` does, and `InvalidPin` for the new one."""
        with self._lock:
            before, after = plain(old), chosen(new, operator)
            if before == after:
                raise InvalidPin("the new one is the old one; choose another one")
            role, key = self._checked(operator, before)
            self._keep(self._roster().put(operator, self._locked(operator, role, after, key)))
            log.info("operator_pin_changed", operator=operator)

    # -- by a manager -------------------------------------------------------------------------------------------------

    def enrol(self, operator: str, pin: str, role: Role, *, by: Session | None) -> None:
        """Let somebody work here: a new operator, or a known one with a new PIN and role, disabled or not.

        Wrong PINs so far are forgotten and the operator's sessions end. `by` is a manager's session; None only for the
        first operator of a desk, who is a manager.

        Raises:
            InvalidOperator, InvalidPin: the name, role or PIN cannot be.
            NotAllowed, SessionEnded: `by` may not.
            LastManager: no manager would be left.
        """
        with self._lock:
            if not _NAME.fullmatch(operator):
                raise InvalidOperator("operator", "1 to 64 characters, without control characters or spaces around")
            if role not in ROLES:
                raise InvalidOperator("role", f"one of {', '.join(ROLES)}")
            roster, digits = self._roster(), chosen(pin, operator)
            if by is None:
                if roster.operators or role != "manager":
                    raise NotAllowed("nobody" if roster.operators else role, "operators", offline_only=False)
                # Of a desk before this one: sealed under a key that nobody has.
                self._vault.put(SECRETS, None)
                key = os.urandom(KEY_BYTES)
            else:
                key = self._key_of(by)
                self._spare_last_manager(roster, operator, role)
            self._keep(roster.put(operator, self._locked(operator, role, digits, key)))
            self._end_sessions(operator)
            log.info("operator_enrolled", operator=operator, role=role, by=None if by is None else by.operator)

    def disable(self, operator: str, *, by: Session) -> None:
        """Let somebody in no more: the sessions end, and no PIN of theirs opens anything.

        Raises:
            UnknownOperator, LastManager: it cannot be done.
            NotAllowed, SessionEnded: `by` may not.
        """
        with self._lock:
            self._key_of(by)
            roster = self._roster()
            if operator not in roster.operators:
                raise UnknownOperator(operator)
            self._spare_last_manager(roster, operator, None)
            self._keep(roster.put(operator, Operator(roster.operators[operator].role, None)))
            self._end_sessions(operator)
            log.info("operator_disabled", operator=operator, by=by.operator)

    def start_over(self) -> None:
        """Forget all operators and secrets: when no manager knows a PIN any more, or the roster cannot be read.

        Nothing that was sealed can be opened after it. Records and queue stay as they are. The caller answers for it
        that whoever asks for it may: nobody's PIN is checked.
        """
        with self._lock:
            self._vault.put(SECRETS, None)
            self._vault.put(OPERATORS, None)
            for session in list(self._sessions):
                session.end()
            log.warning("operators_forgotten")

    # -- inside -------------------------------------------------------------------------------------------------------

    def _checked(self, operator: str, digits: str) -> tuple[Role, bytes]:
        """The role and the data key that a right PIN opens."""
        roster = self._roster()
        known = roster.operators.get(operator)
        if known is None:
            raise UnknownOperator(operator)
        if known.lock is None:
            raise OperatorDisabled(operator)
        boot, at = self._uptime.boot, self._uptime.seconds()
        if wait := left_s(known.attempts, boot, at):
            # So that a reboot sets it back to here, and no further.
            self._keep(roster.attempted(operator, served(known.attempts, boot, at)))
            raise PinMustWait(operator, wait)
        attempts = counted(known.attempts, boot, at)
        # Before it is checked: who pulls the plug at a wrong one has tried it all the same.
        self._keep(roster.attempted(operator, attempts))
        keys = keys_of(digits, known.lock.salt, known.lock.cost)
        if not keys.verifies(known.lock.verifier):
            log.warning("pin_wrong", operator=operator, wrong=attempts.wrong, wait_s=attempts.wait_s)
            raise WrongPin(operator, attempts.wrong, attempts.wait_s)
        self._keep(roster.attempted(operator, Attempts()))
        return known.role, unseal(keys.wrapping, known.lock.wrapped, "data key", operator, known.role)

    def _locked(self, operator: str, role: Role, digits: str, key: bytes) -> Operator:
        salt = os.urandom(SALT_BYTES)
        keys = keys_of(digits, salt, self._cost)
        wrapped = seal(keys.wrapping, key, "data key", operator, role)
        return Operator(role, Lock(salt, self._cost, keys.verifier, wrapped))

    def _session(self, operator: str, role: Role, key: bytes) -> Session:
        session = Session(
            operator,
            role,
            Secrets(self._vault, key, self._secrets_lock),
            signed_in_at=self._now(),
            uptime=self._uptime,
            idle_s=self._idle_s,
        )
        self._sessions.add(session)
        log.info("operator_signed_in", operator=operator, role=role)
        return session

    def _key_of(self, by: Session) -> bytes:
        by.require("operators", online=False)
        if by not in self._sessions:
            raise ValueError("by: a session of another desk")
        return by.secrets.key()

    def _spare_last_manager(self, roster: Roster, operator: str, role: Role | None) -> None:
        if role != "manager" and roster.managers() == {operator}:
            raise LastManager(operator)

    def _end_sessions(self, operator: str) -> None:
        for session in list(self._sessions):
            if session.operator == operator:
                session.end()

    def _roster(self) -> Roster:
        roster = Roster.decode(self._vault.get(OPERATORS))
        boot, at = self._uptime.boot, self._uptime.seconds()
        waiting = {n: one.attempts for n, one in roster.operators.items() if one.attempts.wait_s}
        cut_off = {name: attempts for name, attempts in waiting.items() if attempts.boot != boot}
        for name, attempts in cut_off.items():
            roster = roster.attempted(name, served(attempts, boot, at))
        if cut_off:
            self._keep(roster)
        return roster

    def _keep(self, roster: Roster) -> None:
        self._vault.put(OPERATORS, roster.encode())


class DeskOperators:
    """`Operators` for an event loop: scrypt runs on a thread, and the database on its own meanwhile.

    Cancelled, a call may still be carried out, and a PIN be counted. Raises what `Operators` does.
    """

    def __init__(
        self, local: Local, *, idle_s: float = IDLE_S, cost: Cost = _COST, uptime: Uptime | None = None
    ) -> None:
        """To be made on the event loop that `local` is used on."""
        vault = ThreadVault(local, asyncio.get_running_loop())
        self._operators = Operators(vault, idle_s=idle_s, cost=cost, uptime=uptime)

    async def all(self) -> list[OperatorInfo]:
        """Everybody, by name."""
        return await self._aside(self._operators.all)

    async def sign_in(self, operator: str, pin: str) -> Session:
        """Check a PIN and open a session. The session's secrets are to be used by `asyncio.to_thread`."""
        return await self._aside(self._operators.sign_in, operator, pin)

    async def change_pin(self, operator: str, old: str, new: str) -> None:
        """Give oneself another PIN."""
        await self._aside(self._operators.change_pin, operator, old, new)

    async def enrol(self, operator: str, pin: str, role: Role, *, by: Session | None) -> None:
        """Let somebody work here."""
        await self._aside(self._operators.enrol, operator, pin, role, by=by)

    async def disable(self, operator: str, *, by: Session) -> None:
        """Let somebody in no more."""
        await self._aside(self._operators.disable, operator, by=by)

    async def start_over(self) -> None:
        """Forget all operators and secrets."""
        await self._aside(self._operators.start_over)

    async def _aside(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(work, *args, **kwargs)
