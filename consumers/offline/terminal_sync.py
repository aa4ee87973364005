"""The desk's own side as commands of the terminal program: sync, failures, recovery, repair, operators."""

from __future__ import annotations

import argparse
from contextlib import aclosing
from datetime import tzinfo
from typing import Any, Final

from consumers.offline import terminal_device
from consumers.offline import terminal_views as views
from consumers.offline.capabilities import capabilities
from consumers.offline.database import LocalDatabase
from consumers.offline.guidance import after_recovery, in_outage
from consumers.offline.items import QueueItem
from consumers.offline.roles import NAMES, ROLES
from consumers.offline.status import Text
from consumers.offline.terminal_command import Command, listing, nothing, whole
from consumers.offline.terminal_console import LANGUAGES
from consumers.offline.terminal_desk import PIN, Refused, Terminal

Arguments = argparse.Namespace

SHOWN: Final = 50
_PREFIX: Final = 4
"""How much of an item's uuid is enough to name it, where it is the only one."""


def _zone(terminal: Terminal) -> tzinfo:
    return terminal.setup.calendar.zone


# -- how it stands ----------------------------------------------------------------------------------------------------


async def _status(terminal: Terminal, given: Arguments) -> None:
    desk, console = terminal.desk, terminal.console
    status, counters = desk.status.current, desk.counters
    if given.json:
        counts = status.counts
        row = {
            "state": status.state,
            "online": status.online,
            "banner": None if status.banner is None else status.banner.ja,
            "detail": None if status.detail is None else status.detail.ja,
            "waiting": counts.waiting,
            "failed": counts.failed,
            "conflict": counts.conflict,
            "unconfirmed": counts.unconfirmed,
            "device_id": desk.device_id,
            "tenant_id": desk.tenant_id,
            "last_recovery_s": counters.last_recovery_s,
            "clock_skew_ms": counters.clock_skew_ms,
        }
        console.rows((), [row])
        return
    views.banner(console, status)
    console.say(Text(f"ハブ {terminal.setup.url}", f"hub {terminal.setup.url}"))
    console.say(
        Text(f"施設 {desk.tenant_id}、端末 {desk.device_id}", f"tenant {desk.tenant_id}, device {desk.device_id}")
    )
    if (skew := views.skew_text(counters.clock_skew_ms)) is not None:
        console.say(skew, "yellow")
    if desk.late is not None:
        console.say(
            Text(f"他の端末の変更は数秒遅れて届きます（{desk.late}）", f"others' changes come late: {desk.late}"),
            "yellow",
        )
    for alert in await desk.local.call(lambda database: database.alerts(standing=True)):
        console.say(f"! {alert.message}", "yellow")
    if not status.online:
        views.guide(console, in_outage(0.0, status.counts.waiting))
    terminal.footer()


def _sync_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("now", nargs="?", choices=("now",), help="the only time there is")


async def _sync(terminal: Terminal, given: Arguments) -> int:
    terminal.session.touch()
    outcome = await terminal.desk.sync_now()
    # With what syncs of the desk's own have moved since the last time: the first begins as the program does.
    moved = terminal.moved()
    terminal.console.say(views.outcome_text(outcome, *moved), "green" if outcome.synced else "yellow")
    return 0 if outcome.state == "done" else 1


async def _queue(terminal: Terminal, given: Arguments) -> None:
    terminal.session.touch()
    rows: list[dict[str, Any]] = []
    async with aclosing(terminal.pending()) as items:
        async for item in items:
            if len(rows) >= given.limit:
                break
            rows.append(views.queue_row(terminal.console, item, _zone(terminal)))
    terminal.console.rows(views.QUEUE, rows)
    counts = terminal.desk.status.current.counts
    if counts.unsettled > len(rows):
        terminal.console.say(Text(f"（全{counts.unsettled}件）", f"({counts.unsettled} in all)"))


def _limited(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=whole, default=SHOWN)
    listing(parser)


# -- failures and conflicts -------------------------------------------------------------------------------------------


def _failed_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uuid", nargs="?", help="explain this one; its first characters will do")
    listing(parser)


async def _failed(terminal: Terminal, given: Arguments) -> None:
    terminal.session.touch()
    if given.uuid is not None:
        for line in views.explained(terminal.console, await _one_failed(terminal, given.uuid)):
            terminal.console.say(line)
        return
    items = await terminal.desk.local.call(lambda database: database.failed())
    terminal.console.rows(views.QUEUE, [views.queue_row(terminal.console, item, _zone(terminal)) for item in items])


async def _one_failed(terminal: Terminal, prefix: str) -> QueueItem:
    items = await terminal.desk.local.call(lambda database: database.failed())
    found = [item for item in items if item.uuid.startswith(prefix.lower())]
    if len(found) != 1 or len(prefix) < _PREFIX:
        raise Refused(
            f"同期失敗の項目 {prefix} が特定できません（failed で確認してください）",
            f"{prefix}: {len(found)} failed items begin so; `failed` lists them, {_PREFIX} characters at least",
        )
    return found[0]


def _resend_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uuid", help="its first characters will do; or: all")


async def _resend(terminal: Terminal, given: Arguments) -> None:
    terminal.allow("sync_failures")
    operator, count = terminal.session.operator, 1
    if given.uuid == "all":
        count = await terminal.desk.resend_all(operator=operator)
    else:
        await terminal.desk.resend((await _one_failed(terminal, given.uuid)).uuid, operator=operator)
    terminal.console.say(Text(f"{count}件を再送信します", f"{count} items are sent again"), "green")


def _discard_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uuid", help="its first characters will do")
    parser.add_argument("--reason", required=True, help="for the operation log")


async def _discard(terminal: Terminal, given: Arguments) -> None:
    terminal.allow("sync_failures")
    item = await _one_failed(terminal, given.uuid)
    await terminal.desk.discard(item.uuid, operator=terminal.session.operator, reason=given.reason)
    terminal.console.say(Text(f"破棄しました: {item.uuid}", f"discarded {item.uuid}"), "green")


async def _conflicts(terminal: Terminal, given: Arguments) -> None:
    terminal.session.touch()
    items = await terminal.desk.local.call(lambda database: database.conflicts())
    terminal.console.rows(views.CONFLICTS, [views.conflict_row(item, _zone(terminal)) for item in items])
    if items:
        one = items[0].conflict_id
        told = f"hub conflicts show {one}"
        terminal.console.say(
            Text(f"（解決は責任者がハブで行います: {told}）", f"(a manager decides, at the hub: {told})"), "dim"
        )


# -- lists ------------------------------------------------------------------------------------------------------------


async def _capabilities(terminal: Terminal, given: Arguments) -> None:
    session = terminal.session
    session.touch()
    found = capabilities(terminal.setup.system, online=terminal.online, role=session.role)
    rows = [views.capability_row(terminal.console, one) for one in found]
    terminal.console.rows(views.CAPABILITIES, rows, dim="grey")


def _operations_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--failed", action="store_true", help="only what failed")
    _limited(parser)


async def _operations(terminal: Terminal, given: Arguments) -> None:
    terminal.session.touch()
    entries = await terminal.desk.local.call(
        lambda database: database.operation_log(limit=given.limit, failed=given.failed)
    )
    terminal.console.rows(views.OPERATIONS, [views.log_row(entry, _zone(terminal)) for entry in entries])


async def _history(terminal: Terminal, given: Arguments) -> None:
    terminal.session.touch()
    notes = await terminal.desk.local.call(lambda database: database.sync_history(given.limit))
    terminal.console.rows(views.HISTORY, [views.note_row(note, _zone(terminal)) for note in notes])


# -- recovery ---------------------------------------------------------------------------------------------------------


async def _verify(terminal: Terminal, given: Arguments) -> int:
    terminal.session.touch()
    compared = await terminal.recovery.comparison.compare()
    good = compared.state in ("equal", "repaired")
    terminal.console.say(views.compared_text(compared), "green" if good else "yellow")
    return 0 if good else 1


async def _recover(terminal: Terminal, given: Arguments) -> int:
    terminal.session.touch()
    recovery = terminal.recovery
    outcome = await recovery.manager.run("asked for at the desk")
    counts = await terminal.desk.local.call(lambda database: database.counts())
    rebuilt = outcome.notes.get("local_database", "").startswith("rebuilt")
    views.guide(
        terminal.console,
        after_recovery(outcome.state, conflicts=counts.conflict, failed=counts.failed, rebuilt=rebuilt),
    )
    terminal.console.say(Text(f"{outcome.elapsed_s:.1f} 秒", f"{outcome.elapsed_s:.1f} s"))
    terminal.beside(recovery.heightened.run(), "desk-heightened")
    return 0 if outcome.state in ("recovered", "unverified") else 1


def _repair_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="rebuild it though it looks sound")
    parser.add_argument("--yes", action="store_true", help="do not ask")


async def _repair(terminal: Terminal, given: Arguments) -> int:
    terminal.session.touch()
    problems = await terminal.desk.local.call(LocalDatabase.check)
    for problem in problems:
        terminal.console.wrong(problem)
    if not problems and not given.force:
        terminal.console.say(Text("データに問題はありません", "the data are sound"), "green")
        return 0
    if terminal.session.role != "manager":
        raise Refused("データ修復は責任者が承認してください", "a manager has to approve the repair")
    if not given.yes and not await terminal.console.confirm(Text("修復しますか?", "Rebuild it?")):
        raise Refused("中止しました（実行するには --yes）", "not done; --yes does it")
    outcome = await terminal.recovery.approve_rebuild()
    terminal.console.say(Text(f"結果: {outcome.state}", f"it ended as {outcome.state}"))
    return 0 if outcome.state in ("recovered", "unverified", "offline") else 1


# -- who --------------------------------------------------------------------------------------------------------------


def _operators_arguments(parser: argparse.ArgumentParser) -> None:
    ways = parser.add_subparsers(dest="way", parser_class=type(parser))
    listing(ways.add_parser("list", help="who works here"))
    add = ways.add_parser("add", help="somebody new, or a new PIN and role")
    add.add_argument("name")
    add.add_argument("--role", choices=ROLES, default="front_desk")
    disable = ways.add_parser("disable", help="somebody who left")
    disable.add_argument("name")
    ways.add_parser("pin", help="another PIN for oneself")
    parser.set_defaults(json=False)


async def _operators(terminal: Terminal, given: Arguments) -> None:
    console, session = terminal.console, terminal.session
    match given.way:
        case "add":
            terminal.allow("operators")
            console.say(Text(f"{given.name} のPIN", f"A PIN for {given.name}"))
            await terminal.operators.enrol(given.name, await terminal.new_pin(), given.role, by=session)
            console.say(Text(f"担当者 {given.name} を登録しました", f"{given.name} works here now"), "green")
        case "disable":
            terminal.allow("operators")
            await terminal.operators.disable(given.name, by=session)
            console.say(
                Text(f"担当者 {given.name} を無効にしました", f"{given.name} may not sign in any more"), "green"
            )
        case "pin":
            session.touch()
            old = await terminal.asked(Text("現在のPIN", "PIN now"), PIN, secret=True)
            await terminal.operators.change_pin(session.operator, old, await terminal.new_pin())
            console.say(Text("PINを変更しました", "the PIN is changed"), "green")
        case _:
            session.touch()
            rows = [
                {
                    "name": one.name,
                    "role": console.text(NAMES[one.role]),
                    "state": "disabled" if one.disabled else f"wait {one.wait_s:.0f} s" if one.wait_s else "",
                }
                for one in await terminal.operators.all()
            ]
            console.rows(views.OPERATORS, rows)


def _sign_in_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?")


async def _sign_in(terminal: Terminal, given: Arguments) -> None:
    await terminal.sign_in(given.name)


async def _sign_out(terminal: Terminal, given: Arguments) -> None:
    terminal.sign_out()
    terminal.console.say(Text("サインアウトしました", "signed out"))


def _token_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--command", help="what prints a fresh token, whenever one is needed")


async def _token(terminal: Terminal, given: Arguments) -> None:
    terminal.allow("operators")
    token = None
    if given.command is None:
        token = await terminal.asked(Text("新しいトークン", "New token"), "HUB_TOKEN", secret=True)
    await terminal.new_token(token, given.command)
    terminal.console.say(Text("トークンを保存しました", "the token is kept, sealed"), "green")


def _language_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("language", choices=LANGUAGES)


async def _language(terminal: Terminal, given: Arguments) -> None:
    terminal.console.language = given.language
    terminal.save_setup(language=given.language)
    terminal.console.say(Text("日本語で表示します", "English from now on"))


COMMANDS: Final = (
    Command("status", Text("状態", "how the desk stands"), listing, _status),
    Command("sync", Text("今すぐ同期", "sync now"), _sync_arguments, _sync),
    Command("queue", Text("同期待ち一覧", "what waits for the hub"), _limited, _queue),
    Command("failed", Text("同期失敗一覧・説明", "what failed, and why"), _failed_arguments, _failed),
    Command("resend", Text("再送信", "send a failed item again"), _resend_arguments, _resend),
    Command("discard", Text("破棄", "give a failed item up"), _discard_arguments, _discard),
    Command("conflicts", Text("競合一覧", "what a person has to decide"), listing, _conflicts),
    Command("capabilities", Text("使用できる機能", "what works now"), listing, _capabilities),
    Command("operations", Text("操作ログ", "the operation log"), _operations_arguments, _operations),
    Command("history", Text("同期履歴", "the sync history"), _limited, _history),
    Command("verify", Text("ハブと照合", "compare with the hub now"), nothing, _verify),
    Command("recover", Text("復旧手順を実行", "run the recovery"), nothing, _recover),
    Command("repair", Text("データ修復", "check and repair the local data"), _repair_arguments, _repair),
    terminal_device.COMMAND,
    Command(
        "operators",
        Text("担当者とPIN（list, add, disable, pin）", "operators and PINs"),
        _operators_arguments,
        _operators,
    ),
    Command("sign-in", Text("サインイン", "somebody else's turn"), _sign_in_arguments, _sign_in),
    Command("sign-out", Text("サインアウト", "sign out"), nothing, _sign_out),
    Command("token", Text("トークンの更新", "give the desk another token"), _token_arguments, _token),
    Command("language", Text("表示言語（ja, en）", "ja or en"), _language_arguments, _language),
)
