"""The desk behind the terminal program: set up, opened, signed in to by PIN, operated, closed.

An operation that was begun is carried out and told, whatever is pressed meanwhile.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from consumers.clock import Clock, SystemClock
from consumers.errors import ConsumerError
from consumers.offline import terminal_views as views
from consumers.offline.capabilities import UNAVAILABLE, capability
from consumers.offline.database import LocalDatabase
from consumers.offline.desk import Desk
from consumers.offline.desk_recovery import DeskRecovery
from consumers.offline.engine import SyncOutcome
from consumers.offline.errors import LocalInUse, OtherDesk
from consumers.offline.front_desk import Deed, Doubtful
from consumers.offline.house_records import HouseRecords
from consumers.offline.items import QueueItem
from consumers.offline.local_thread import LocalThread
from consumers.offline.lockout import Uptime
from consumers.offline.operators import DeskOperators, WrongPin
from consumers.offline.pin import Cost, InvalidPin
from consumers.offline.rebuild import resume
from consumers.offline.recovery import Report
from consumers.offline.roles import NotAllowed, needed
from consumers.offline.sessions import IDLE_S, Session
from consumers.offline.settings import DeskSettings
from consumers.offline.status import Text
from consumers.offline.terminal_console import Console
from consumers.offline.terminal_failures import failure
from consumers.offline.terminal_session import DeskToken, Relay, seal_access
from consumers.offline.terminal_setup import (
    DeskSetup,
    SetupError,
    hold,
    holder,
    let_go,
    make_directory,
)
from schemas.sync import TYPES, entity_of

FIRST_SYNC_S: Final = 10.0
"""How long a command waits for what others did: after that it works with what the desk has."""
TRIES: Final = 3
PIN: Final = "HOTEL_DESK_PIN"
OPERATOR: Final = "HOTEL_DESK_OPERATOR"
TOKEN: Final = "HUB_TOKEN"


class Refused(ConsumerError):
    """It was not done; `reason` is for the person at the desk."""

    def __init__(self, ja: str, en: str) -> None:
        super().__init__(en)
        self.reason = Text(ja, en)


class FilesInUse(Refused):
    """Another program works on this desk's files."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the program was started with."""

    directory: Path
    token: str | None = None
    token_command: str | None = None
    operator: str | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is around the program; tests put their own there."""

    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    clock: Clock = field(default_factory=SystemClock)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    cost: Cost = field(default_factory=Cost)
    uptime: Uptime | None = None
    idle_s: float = IDLE_S


class Terminal:
    """One program on one desk's files: `open`, `first_operator`, `sign_in`, work, `close`."""

    def __init__(self, console: Console, options: Options, setup: DeskSetup, around: Surroundings) -> None:
        self.console = console
        self.options = options
        self.setup = setup
        self.around = around
        self.operators: DeskOperators
        self.house: HouseRecords
        self._desk: Desk | None = None
        self._session: Session | None = None
        self._recovery: DeskRecovery | None = None
        self._files: LocalThread | None = None
        self._relay = Relay()
        self._tokens = DeskToken(now=around.now)
        self._tasks: set[asyncio.Task[None]] = set()
        self._limited: set[str] = set()
        self._moved = (0, 0)
        self._recovering = False

    # -- life ---------------------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The desk's database."""
        return database_path(self.options.directory, self.around.environment)

    async def open(self) -> None:
        """Open the desk's files, so that a PIN can be checked; the desk itself begins as somebody signs in.

        Raises:
            FilesInUse: another program has them.
            LocalDamaged, LocalUnusable, LocalFull: as `LocalDatabase.open`.
        """
        make_directory(self.options.directory)
        files = self._files = await self._opened()
        own = await files.call(lambda database: database.device_id)
        given = self.options.device
        if given not in (None, own):
            # Not even the one it had before: what is asked for is another desk.
            raise OtherDesk(str(self.path), "device_id", own, given)
        if self.setup.device_id is not None:
            self.setup = replace(self.setup, device_id=own)
        hold(self.options.directory)
        self._relay.to = self._files
        self.operators = DeskOperators(
            self._relay, idle_s=self.around.idle_s, cost=self.around.cost, uptime=self.around.uptime
        )

    async def _opened(self) -> LocalThread:
        setup = self.setup

        def opened() -> LocalDatabase:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            resume(self.path)
            return LocalDatabase.open(
                self.path,
                tenant_id=setup.tenant_id,
                system=setup.system,
                device_id=setup.device_id,
                now=self.around.now,
            )

        try:
            return await LocalThread.open(opened)
        except LocalInUse as error:
            raise self._in_use(error) from error

    async def _begin(self) -> None:
        """The desk takes the files over, and is at work."""
        files, self._files = self._files, None
        if files is not None:
            await files.close()
        setup = self.setup
        try:
            self._desk = await Desk.open(
                self.path,
                url=setup.url,
                token=self._tokens.token,
                tenant_id=setup.tenant_id,
                system=setup.system,
                device_id=setup.device_id,
                clock=self.around.clock,
                now=self.around.now,
                settings=DeskSettings.from_environment(self.around.environment),
            )
        except LocalInUse as error:
            raise self._in_use(error) from error
        self._moved, self._recovering = (0, 0), False
        self._relay.to = self._desk.local
        self.house = HouseRecords(self._desk)

    def _in_use(self, error: LocalInUse) -> FilesInUse:
        who = holder(self.options.directory)
        return FilesInUse(f"この端末のデータは使用中です: {who}", f"{error.path} is in use by {who}: close that first")

    async def close(self) -> None:
        """Let the sync under way come to its end and let go of the files. May be called twice."""
        desk, self._desk = self._desk, None
        files, self._files = self._files, None
        self._relay.to = None
        if desk is None and files is None:
            return
        await self._alone()
        if self._session is not None:
            self._session.end()
        try:
            if files is not None:
                await files.close()
            if desk is not None:
                await desk.close()
        finally:
            let_go(self.options.directory)

    async def _alone(self) -> None:
        """End what is done beside."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def at_rest(self) -> AsyncIterator[LocalThread]:
        """The desk's files without the desk, which begins anew afterwards; whoever is signed in stays so."""
        attended = bool(self._tasks)
        await self._alone()
        desk, self._desk, self._recovery = self.desk, None, None
        await desk.close()
        files = self._files = await self._opened()
        self._relay.to = files
        try:
            yield files
        finally:
            # The desk that begins asks for the token anew; nobody refused it the one of before.
            self._tokens.signed_in(self.session)
            await self._begin()
            if attended:
                self.attend()

    @property
    def desk(self) -> Desk:
        """The open desk."""
        assert self._desk is not None, "the desk is not open"
        return self._desk

    @property
    def session(self) -> Session:
        """Whose turn it is.

        Raises:
            Refused: nobody is signed in.
        """
        if self._session is None:
            raise Refused("サインインしてください", "nobody is signed in: sign-in NAME")
        return self._session

    @property
    def operator(self) -> str | None:
        """Who signed in last."""
        return None if self._session is None else self._session.operator

    @property
    def online(self) -> bool:
        """Whether the hub is reached."""
        return self.desk.line.online

    def save_setup(self, **news: Any) -> None:
        """Change the desk's setup, and keep it."""
        self.setup = replace(self.setup, **news)
        self.setup.save(self.options.directory)

    # -- who ----------------------------------------------------------------------------------------------------------

    async def first_operator(self) -> None:
        """A desk without operators gets its first one, a manager."""
        if await self.operators.all():
            return
        self.console.say(Text("最初の担当者（責任者）を登録します", "The first operator of this desk, a manager:"))
        name = self._named() or await self.asked(Text("担当者名", "Name"), "--operator")
        await self._enrolled(name)
        self.options = replace(self.options, operator=name)

    async def _enrolled(self, name: str) -> None:
        given = self.around.environment.get(PIN)
        while True:
            pin = given or await self.new_pin()
            try:
                await self.operators.enrol(name, pin, "manager", by=None)
            except InvalidPin as error:
                if given or not self.console.interactive:
                    raise
                self.console.wrong(failure(error))
            else:
                return

    async def new_pin(self) -> str:
        """A PIN, typed twice."""
        while True:
            pin = await self.asked(Text("新しいPIN（4〜12桁）", "New PIN (4 to 12 digits)"), PIN, secret=True)
            if pin == await self.asked(Text("もう一度", "Once more"), PIN, secret=True):
                return pin
            if not self.console.interactive:
                raise Refused("PINが一致しません", "the two PINs are not the same")
            self.console.wrong(Text("PINが一致しません", "the two are not the same"))

    async def sign_in(self, name: str | None = None) -> None:
        """Somebody types a PIN. The desk's token is opened by it, and a new one sealed.

        Raises:
            UnknownOperator, OperatorDisabled, PinMustWait, WrongPin, InvalidPin: it did not work.
        """
        name = name or self._named() or await self._only_operator()
        given = self.around.environment.get(PIN) if self._session is None or name == self._named() else None
        if given is None and self._session is not None and not self.console.interactive:
            raise Refused(f"PINを {PIN} で指定してください", f"a script gives the PIN by {PIN}: its lines are commands")
        for attempt in range(1, TRIES + 1):
            pin = given or await self.asked(Text(f"{name} のPIN", f"PIN of {name}"), PIN, secret=True)
            try:
                session = await self.operators.sign_in(name, pin)
                break
            except (WrongPin, InvalidPin) as error:
                waits = isinstance(error, WrongPin) and error.wait_s
                if given or waits or not self.console.interactive or attempt == TRIES:
                    raise
                self.console.wrong(failure(error))
        if self._session is not None:
            self._session.end()
        self._session = session
        hold(self.options.directory, session.operator)
        await self._seal(session)
        self._tokens.signed_in(session)
        if self._desk is None:
            await self._begin()
        else:
            self._desk.signed_in()

    def sign_out(self) -> None:
        """The next one has to type a PIN."""
        if self._session is not None:
            self._session.end()

    async def new_token(self, token: str | None, command: str | None) -> None:
        """Use another token, or the command that prints one, from now on."""
        await asyncio.to_thread(seal_access, self.session, token, command)
        self._tokens.signed_in(self.session)
        with suppress(ConsumerError):
            await self.desk.credential.renew()
        self.desk.signed_in()

    async def _seal(self, session: Session) -> None:
        token = self.options.token or self.around.environment.get(TOKEN) or None
        command = self.options.token_command
        self.options = replace(self.options, token=None, token_command=None)
        if token or command:
            await asyncio.to_thread(seal_access, session, token, command)

    def _named(self) -> str | None:
        return self.options.operator or self.around.environment.get(OPERATOR) or None

    async def _only_operator(self) -> str:
        names = [one.name for one in await self.operators.all() if not one.disabled]
        if len(names) == 1:
            return names[0]
        return await self.asked(Text(f"担当者名（{'、'.join(names)}）", f"Name ({', '.join(names)})"), "--operator")

    async def asked(self, what: Text, instead: str, *, secret: bool = False, default: str | None = None) -> str:
        """An answer of the person's; `instead` names the option or variable that gives it to a script.

        Raises:
            SetupError: there is nobody to answer.
        """
        shown = self.console.text(what) + (f" [{default}]" if default else "")
        while True:
            try:
                answer = (await self.console.ask(f"{shown}: ", secret=secret)).strip() or default or ""
            except EOFError as error:
                raise SetupError(f"{what.en}: nobody answers; give {instead}") from error
            if answer:
                return answer

    # -- work ---------------------------------------------------------------------------------------------------------

    def allow(self, *features: Any) -> None:
        """Whether who is signed in may use these functions now (R90, R98).

        Raises:
            SessionEnded: it takes the PIN again.
            Refused: the role may not, or not while the hub is not reached.
        """
        session, online = self.session, self.online
        session.touch()
        for name in features:
            one = capability(self.setup.system, name, online=online, role=session.role)
            if not one.available:
                note = one.note or UNAVAILABLE
                raise Refused(f"{one.label.ja}: {note.ja}", f"{one.label.en}: {note.en}")
            try:
                session.require(name, online=online)
            except NotAllowed as error:
                raise Refused(f"{one.label.ja}: 権限がないため使用不可", f"{one.label.en}: {error}") from error
            # How it is limited is told once an outage, of what was asked for and not of what goes with it.
            if name == features[0] and one.degraded and one.note is not None and name not in self._limited:
                self._limited.add(name)
                self.console.say(Text(f"（{one.label.ja}: {one.note.ja}）", f"({one.label.en}: {one.note.en})"), "dim")
        if online:
            self._limited.clear()

    async def do(self, deed: Deed, *features: Any) -> list[QueueItem]:
        """Keep a deed, where whoever is signed in may, and tell of it. Once begun it is carried out.

        Raises:
            SessionEnded, Refused: as `allow`.
            InvalidChange, LocalFull, LocalUnusable, OfflineModeDisabled: as `Desk.operate`.
        """
        wanted: list[Any] = list(features)
        for change in deed.changes:
            held = await self.house.data(TYPES[change.model], entity_of(change.model, change.entity_id))
            wanted += sorted(needed(change.model, change.operation, change.payload, action=change.action, held=held))
        self.allow(*dict.fromkeys(wanted))
        session = self.session
        keeping = asyncio.ensure_future(
            self.desk.operate(deed.changes, operator=session.operator, operation=deed.operation, role=session.role)
        )
        try:
            items = await asyncio.shield(keeping)
        except asyncio.CancelledError:
            # Local: a moment. Who pressed Ctrl-C is told that it was done, or why not.
            await keeping
            self.told(deed)
            raise
        self.told(deed)
        return items

    def told(self, deed: Deed) -> None:
        """Tell what was done, and whether it has to wait for the hub (R98)."""
        mark = "" if self.online else "  「同期待ち」"
        self.console.say(Text(deed.told.ja + mark, deed.told.en + mark), "green")

    async def meant(self, make: Callable[[bool], Deed], anyway: bool) -> Deed:
        """A deed, where a person means it in spite of what there is against it.

        Raises:
            NotPossible: it cannot be.
            Refused: nobody said so.
        """
        try:
            return make(anyway)
        except Doubtful as doubt:
            for reason in doubt.reasons:
                self.console.wrong(reason)
            if await self.console.confirm(Text("それでも実行しますか?", "Do it all the same?")):
                return make(True)
            raise Refused("中止しました（実行するには --anyway）", "not done; --anyway does it") from doubt

    async def synced(self, seconds: float = FIRST_SYNC_S) -> SyncOutcome | None:
        """Sync, waiting at most so long; None: it goes on beside."""
        with suppress(TimeoutError):
            async with self.around.clock.timeout(seconds):
                return await self.desk.sync_now()
        return None

    async def pending(self) -> AsyncGenerator[QueueItem, None]:
        """All items that are not settled, in their order. Close it when done."""

        def behind(after: int) -> Callable[[LocalDatabase], list[QueueItem]]:
            return lambda database: database.pending(after=after)

        after = 0
        while page := await self.desk.local.call(behind(after)):
            for item in page:
                yield item
            after = page[-1].device_sequence

    def new_id(self, letter: str) -> str:
        """An id that no other desk makes."""
        return f"{letter}-{uuid4().hex[:10].upper()}"

    # -- beside -------------------------------------------------------------------------------------------------------

    @property
    def recovery(self) -> DeskRecovery:
        """What recovers the desk, compares it and rebuilds its database."""
        if self._recovery is None:
            self._recovery = DeskRecovery(
                self.desk,
                self.path,
                clock=self.around.clock,
                now=self.around.now,
                report=self._report,
                tell=lambda told: views.guide(self.console, told),
            )
        return self._recovery

    def _report(self, report: Report) -> None:
        self.console.say(*views.recovery_line(report))
        ended = self._recovering and report.state != "running"
        self._recovering = report.state == "running"
        if ended:
            views.banner(self.console, self.desk.status.current)

    def attend(self) -> None:
        """Show the desk's state as it changes, and recover it, beside what is done at the prompt."""
        self.beside(self.banners(), "terminal-banners")
        self.beside(self.recovery.run(), "terminal-recovery")

    def moved(self) -> tuple[int, int]:
        """Items sent and changes received since this was asked the last time."""
        counters = self.desk.counters
        before, self._moved = self._moved, (counters.pushed, counters.pulled)
        return self._moved[0] - before[0], self._moved[1] - before[1]

    def beside(self, work: Any, name: str) -> None:
        """Do something beside, until the program ends."""
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def banners(self) -> None:
        """Show the desk's state whenever it changes (R97)."""
        last: tuple[object, ...] | None = None
        async with aclosing(self.desk.status.follow()) as states:
            async for status in states:
                looks = (status.state, status.detail)
                if status.banner is None:
                    # Work is on its way: that it has arrived is news.
                    last = None if status.counts.waiting else last
                elif looks != last:
                    last = looks
                    if self._recovering and status.state == "all_synced":
                        # Of that the end of the recovery tells: it may find otherwise.
                        continue
                    views.banner(self.console, status)

    def footer(self) -> None:
        """The sync indicator under every screen (R99)."""
        views.footer(self.console, self.desk.status.current, self.desk.device_id, self.operator)


def database_path(directory: Path, environment: Mapping[str, str]) -> Path:
    """LOCAL_DB_PATH, or `desk.db` among the desk's files."""
    kept = environment.get("LOCAL_DB_PATH", "").strip()
    return Path(kept).expanduser() if kept else directory / "desk.db"
