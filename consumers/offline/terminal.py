"""`hub-terminal`: a front desk in a terminal, which works with the line up or down.

Without a command there is a prompt, which also takes lines from a script; with one it is done, and the program ends:
`hub-terminal check-in R1 --room 301`. The first start asks where the hub is, for a token and for the first operator.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import structlog

from consumers.errors import ConsumerError
from consumers.offline import terminal_hotel, terminal_sync
from consumers.offline import terminal_views as views
from consumers.offline.errors import LocalDamaged, OtherDesk
from consumers.offline.guidance import guidance
from consumers.offline.rebuild import rebuild
from consumers.offline.sessions import SessionEnded
from consumers.offline.status import Text
from consumers.offline.terminal_command import Command, Parser, UsageError, nothing
from consumers.offline.terminal_console import LANGUAGES, Console, keep_standard_descriptors
from consumers.offline.terminal_desk import (
    TOKEN,
    Options,
    Refused,
    Surroundings,
    Terminal,
    database_path,
)
from consumers.offline.terminal_failures import failure
from consumers.offline.terminal_session import offered
from consumers.offline.terminal_setup import DEFAULT_URL, DeskSetup, hub_url, in_the_clear, make_directory

PROMPT: Final = "> "
AGAIN_S: Final = 2.0
"""Two Ctrl-C at the prompt within so many seconds end the program."""
USAGE, FAILED, INTERRUPTED = 2, 1, 130


async def _only_set_up(terminal: Terminal, given: argparse.Namespace) -> None:
    terminal.console.say(Text("設定が完了しました", "the desk is set up"), "green")


COMMANDS: Final[Mapping[str, Command]] = {
    one.name: one
    for one in (
        *terminal_hotel.COMMANDS,
        *terminal_sync.COMMANDS,
        Command("setup", Text("初期設定のみ", "set the desk up, and no more"), nothing, _only_set_up),
    )
}


def _commands_parser(parser: argparse.ArgumentParser) -> None:
    ways = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS.values():
        command.arguments(ways.add_parser(command.name, help=command.help.en, description=command.help.en))


def program_parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    parser = Parser(prog="hub-terminal", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="the desk's files (default: HOTEL_DESK_DIR or ~/.hotel-desk)")
    parser.add_argument("--url", help=f"the hub (first start; default {DEFAULT_URL})")
    parser.add_argument("--token", help="the desk's token; HUB_TOKEN is better, nobody sees that")
    parser.add_argument("--token-command", help="a command that prints a fresh token whenever one is needed")
    parser.add_argument("--tenant", help="the property (first start)")
    parser.add_argument("--system", help="whose desk it is (first start; default: the token's, hotel-pms)")
    parser.add_argument("--device", help="the desk's device_id (first start; default: the token's, or a new one)")
    parser.add_argument("--zone", help="the property's IANA time zone (first start; default Asia/Tokyo)")
    parser.add_argument("--rollover-hour", type=int, help="when its business day turns (first start; default 5)")
    parser.add_argument("--currency", help="ISO 4217 (first start; default: the tenant's)")
    parser.add_argument("--language", choices=LANGUAGES, help="ja or en (default ja)")
    parser.add_argument("--operator", help="who works (HOTEL_DESK_OPERATOR); the PIN is asked for, or HOTEL_DESK_PIN")
    parser.add_argument("--verbose", action="store_true", help="the desk's own log, on stderr")
    _commands_parser(parser)
    return parser


class Program:
    """One run of the program."""

    def __init__(self, console: Console, given: argparse.Namespace, around: Surroundings) -> None:
        self.console = console
        self.terminal: Terminal | None = None
        self._given = given
        self._around = around
        kept = around.environment.get("HOTEL_DESK_DIR", "").strip()
        directory = given.data_dir or (Path(kept) if kept else Path.home() / ".hotel-desk")
        self._options = Options(directory.expanduser(), given.token, given.token_command, given.operator, given.device)
        self._running: asyncio.Task[int] | None = None
        self._interrupted = False
        self._pressed = -AGAIN_S
        self._lines = Parser(prog="", add_help=True)
        _commands_parser(self._lines)

    async def run(self) -> int:
        """Set up, sign in, work; the exit code."""
        self.console.json = bool(getattr(self._given, "json", False))
        try:
            held, setup = await self._set_up()
            self.console.language = setup.language
            terminal = self.terminal = Terminal(self.console, self._options, setup, self._around)
            if (code := await self._opened(terminal)) is not None:
                return code
            if held not in (None, terminal.setup):
                # Not before the files are found to be this desk's.
                self._keep(terminal.setup)
            return await self._work(terminal)
        except ConsumerError as error:
            self.console.wrong(failure(error))
            return FAILED
        except EOFError:
            return FAILED
        finally:
            if self.terminal is not None:
                await asyncio.shield(self.terminal.close())

    def interrupt(self) -> None:
        """Ctrl-C: end the command that runs; at the prompt, twice, end the program."""
        if self._running is not None and not self._running.done():
            self._interrupted = True
            self._running.cancel()
            return
        now = self._around.clock.monotonic()
        if now - self._pressed < AGAIN_S:
            raise KeyboardInterrupt
        self._pressed = now
        self.console.wrong(Text("終了は quit（または Ctrl-C をもう一度）", "quit ends it, or Ctrl-C once more"))

    # -- beginning ----------------------------------------------------------------------------------------------------

    async def _set_up(self) -> tuple[DeskSetup | None, DeskSetup]:
        """The setup as it was kept, None of a new desk, and as it is to be."""
        given, directory = self._given, self._options.directory
        held = DeskSetup.load(directory)
        named = {
            "url": None if given.url is None else hub_url(given.url),
            "language": given.language,
            "zone": given.zone,
            "rollover_hour": given.rollover_hour,
            "currency": given.currency,
            "tenant_id": given.tenant,
            "system": given.system,
            "device_id": given.device,
        }
        said = {name: value for name, value in named.items() if value is not None}
        if held is not None:
            return held, replace(held, **said)
        setup = await self._asked(said)
        self._keep(setup)
        return None, setup

    def _keep(self, setup: DeskSetup) -> None:
        make_directory(self._options.directory)
        setup.save(self._options.directory)
        if in_the_clear(setup.url):
            self.console.wrong(
                Text(
                    f"注意: {setup.url} は暗号化されていません（wss を使用してください）",
                    f"careful: what goes to {setup.url} can be read on the way; use wss",
                )
            )

    async def _asked(self, said: dict[str, Any]) -> DeskSetup:
        """What a new desk is told, by options or by whoever sits there."""
        self.console.language = said.get("language", self.console.language)
        terminal = Terminal(self.console, self._options, DeskSetup(DEFAULT_URL, "default", "hotel-pms"), self._around)
        ask = terminal.asked
        self.console.say(Text("この端末の初期設定", "This desk is new."), "bold")
        if "url" not in said:
            url = await ask(Text("ハブのURL", "The hub's URL"), "--url", default=DEFAULT_URL)
            said["url"] = hub_url(url)
        token = self._options.token or self._around.environment.get(TOKEN)
        if not token and not self._options.token_command:
            token = await ask(Text("トークン", "Token"), f"--token or {TOKEN}", secret=True)
            self._options = replace(self._options, token=token)
        tenant, system, device = offered(token)
        if "tenant_id" not in said:
            said["tenant_id"] = tenant or await ask(Text("施設（テナント）", "Tenant"), "--tenant", default="default")
        said.setdefault("system", system)
        if device is not None:
            said.setdefault("device_id", device)
        elif "device_id" not in said and self.console.interactive:
            name = await ask(Text("端末名（- で自動）", "Name of this device (- makes one)"), "--device", default="-")
            said["device_id"] = None if name == "-" else name
        return DeskSetup(**said)

    async def _opened(self, terminal: Terminal) -> int | None:
        """Open the desk; a damaged one is repaired where somebody agrees. The exit code, where that is all."""
        repairing = self._given.command == "repair"
        try:
            await terminal.open()
        except OtherDesk as error:
            option = {"tenant_id": "--tenant", "system": "--system", "device_id": "--device"}[error.field]
            raise Refused(
                f"この端末は {error.own} です: {option} を外すか {option} {error.own} を指定してください。"
                "別の端末には HOTEL_DESK_DIR で別のフォルダーを",
                f"this desk's is {error.own}: leave {option} out or give {option} {error.own}; "
                "another desk takes files of its own (HOTEL_DESK_DIR)",
            ) from error
        except LocalDamaged as error:
            self.console.wrong(str(error))
            views.guide(self.console, [guidance("rebuild_proposed")])
            agreed = (repairing and self._given.yes) or await self.console.confirm(
                Text("データを修復しますか?", "Rebuild the local data?")
            )
            if not agreed:
                raise Refused(
                    "修復するには: hub-terminal repair --yes", "to rebuild it: hub-terminal repair --yes"
                ) from error
            path = database_path(self._options.directory, self._around.environment)
            now = self._around.now
            rebuilt = await asyncio.to_thread(lambda: rebuild(path, now=now, even_if_sound=True))
            for line in [] if rebuilt is None else views.rebuilt_text(rebuilt):
                self.console.say(line)
            views.guide(self.console, [guidance("rebuilt")])
            await terminal.open()
            return 0 if repairing else None
        return None

    async def _work(self, terminal: Terminal) -> int:
        command = COMMANDS.get(self._given.command or "")
        await terminal.first_operator()
        await terminal.sign_in()
        return await (self._prompt(terminal) if command is None else self._once(terminal, command))

    # -- one command --------------------------------------------------------------------------------------------------

    async def _once(self, terminal: Terminal, command: Command) -> int:
        """Do one command with what others did until now, and let what was done go out, where the hub is reached."""
        if command.name not in ("setup", "sync", "recover"):
            await terminal.synced()
        operations = terminal.desk.counters.operations
        code = await self._interruptible(self._carried_out(terminal, command, self._given))
        operated = terminal.desk.counters.operations > operations
        if operated and terminal.online:
            await terminal.synced()
        status = terminal.desk.status.current
        # Of what others did since the line was lost a list knows nothing; and what is not there may be, by now.
        stale = not status.online and command in terminal_hotel.COMMANDS and not getattr(self._given, "json", False)
        if operated or stale:
            if status.icon in ("offline", "warning"):
                views.banner(self.console, status)
            terminal.footer()
        return code

    async def _carried_out(self, terminal: Terminal, command: Command, given: argparse.Namespace) -> int:
        self.console.json = bool(getattr(given, "json", False))
        try:
            return await command.run(terminal, given) or 0
        except SessionEnded as error:
            self.console.wrong(failure(error))
            await terminal.sign_in(terminal.operator)
            return await command.run(terminal, given) or 0
        finally:
            self.console.json = False

    async def _interruptible(self, work: Any) -> int:
        """Carry a command out; its errors are told."""
        self._running = asyncio.ensure_future(work)
        try:
            return await self._running
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            self._interrupted = False
            self.console.wrong(Text("中断しました", "interrupted"))
            return INTERRUPTED
        except UsageError as error:
            for line in str(error).splitlines():
                self.console.wrong(line)
            return USAGE
        except ConsumerError as error:
            self.console.wrong(failure(error))
            return FAILED
        finally:
            self._running = None

    # -- the prompt ---------------------------------------------------------------------------------------------------

    async def _prompt(self, terminal: Terminal) -> int:
        """Command after command, until there are no more. Of a script the last failure's exit code."""
        # Before anything is shown of the line, it is looked at.
        await terminal.desk.line.check()
        terminal.attend()
        if not self.console.interactive:
            # A script does not look at the banner first: what others did shall be there.
            await terminal.synced()
        code = 0
        while True:
            terminal.footer()
            try:
                words = shlex.split(await self.console.ask(f"{terminal.operator}{PROMPT}"), comments=True)
            except EOFError:
                return code
            except ValueError as error:
                self.console.wrong(str(error))
                code = 0 if self.console.interactive else USAGE
                continue
            if not words:
                continue
            if words[0] in ("quit", "exit"):
                return code
            if words[0] == "help" and len(words) == 1:
                self._help()
                continue
            done = await self._interruptible(self._line(terminal, words))
            code = done or code if not self.console.interactive else 0

    async def _line(self, terminal: Terminal, words: Sequence[str]) -> int:
        words = [*words[1:], "--help"] if words[0] == "help" else list(words)
        try:
            given = self._lines.parse_args(words)
        except SystemExit:
            # --help was printed.
            return 0
        return await self._carried_out(terminal, COMMANDS[given.command], given)

    def _help(self) -> None:
        for command in COMMANDS.values():
            if command.name != "setup":
                self.console.say(f"  {command.name:<14}{self.console.text(command.help)}")
        self.console.say(f"  {'help COMMAND':<14}{self.console.text(Text('使い方', 'how it is written'))}")
        self.console.say(f"  {'quit':<14}{self.console.text(Text('終了', 'end'))}")


async def _run(program: Program) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    ended: list[int] = []

    def end(code: int) -> None:
        ended.append(code)
        task.cancel()

    def interrupted() -> None:
        try:
            program.interrupt()
        except KeyboardInterrupt:
            end(INTERRUPTED)

    handlers: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGINT: interrupted,
        signal.SIGTERM: lambda: end(128 + signal.SIGTERM),
        signal.SIGHUP: lambda: end(128 + signal.SIGHUP),
    }
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        return await program.run()
    except asyncio.CancelledError:
        if not ended:
            raise
        return ended[0]
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; its exit code."""
    keep_standard_descriptors()
    console = Console.standard("ja")
    try:
        given = program_parser().parse_args(arguments)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    level = logging.INFO if given.verbose else logging.CRITICAL
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        return asyncio.run(_run(Program(console, given, Surroundings())))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read along has left.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
