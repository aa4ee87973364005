"""The terminal program's way out where two desks have one device id: another one for this desk."""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import Final

from consumers.errors import ConsumerError
from consumers.offline.database import LocalDatabase
from consumers.offline.errors import LocalUnusable
from consumers.offline.status import Text
from consumers.offline.terminal_command import Command
from consumers.offline.terminal_desk import Refused, Terminal
from consumers.offline.terminal_setup import claims_of


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device_id", nargs="?", help="default: a new one")


async def _new_device_id(terminal: Terminal, given: argparse.Namespace) -> int:
    session = terminal.session
    session.touch()
    if session.role != "manager":
        raise Refused("端末IDの変更は責任者が行ってください", "a manager has to give the desk another id")
    outcome = await terminal.desk.sync_now()
    if outcome.state != "done" or await terminal.desk.local.call(lambda database: database.unpulled) > 0:
        raise Refused(
            "先にハブと同期してください（届いている項目を確認するため）。変更していません",
            "it takes a sync with the hub first, which tells what has arrived there: nothing is changed",
        )

    def renamed(database: LocalDatabase) -> tuple[int, str]:
        count = database.new_device_id(given.device_id, operator=session.operator, role=session.role)
        return count, database.device_id

    async with terminal.at_rest() as files:
        try:
            count, own = await files.call(renamed)
        except LocalUnusable as error:
            raise Refused(f"端末IDを変更できません（{error.reason}）", error.reason) from error
        # Cut off before this, the database still knows the id that is kept here as its own.
        terminal.save_setup(device_id=own)
    terminal.console.say(
        Text(f"端末IDは {own} になりました。{count}件を送信します", f"this desk is {own} now: {count} items are sent"),
        "green",
    )
    if (bound := await _bound_to(terminal)) not in (None, own):
        terminal.console.wrong(
            Text(
                f"トークンは {bound} のものです。{own} のトークンを token で設定してください",
                f"the token is for {bound}: give the desk one for {own}, by `token`",
            )
        )
    await terminal.synced()
    return 0


async def _bound_to(terminal: Terminal) -> str | None:
    """The device that the desk's token is for, as far as it says."""
    with suppress(ConsumerError):
        device = claims_of(await terminal.desk.credential.current()).get("device_id")
        return device if isinstance(device, str) else None
    return None


COMMAND: Final = Command("new-device-id", Text("端末IDの変更", "another device id"), _arguments, _new_device_id)
