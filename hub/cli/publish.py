"""`hub publish`: one event from the command line, or a file of them."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import orjson
import typer
import uuid_utils

from hub.cli.access import Access, DataDir, Json, Token, Url, access
from hub.cli.failure import CommandError, UsageError, sentences
from hub.cli.output import Bar, compact, line, note, on_terminal
from hub.cli.remote import Refused, Remote
from hub.cli.resend import Resender
from schemas import strict_json
from schemas.errors import Problem
from schemas.frames import MAX_BATCH_EVENTS, MAX_BODY_BYTES
from schemas.types import HUB

DEFAULT_TENANT: Final = "default"
"""The tenant of events that name none, where the token is good for all."""
_MAX_BATCH_BYTES: Final = MAX_BODY_BYTES - 1024

app = typer.Typer()


@app.command("publish")
def publish(
    name: Annotated[str | None, typer.Argument(metavar="[TYPE.ACTION]", help="Like reservation.created")] = None,
    data: Annotated[str | None, typer.Option(help="The event's data: JSON, @FILE, or - for stdin")] = None,
    file: Annotated[str | None, typer.Option(help="Events as JSON, one a line, instead; - for stdin")] = None,
    tenant: Annotated[str | None, typer.Option(help="The tenant of events that name none")] = None,
    event_id: Annotated[str | None, typer.Option("--event-id", help="A UUID; the same id is stored once")] = None,
    expected_revision: Annotated[
        int | None, typer.Option("--expected-revision", min=0, help="Only if the entity is still at this revision")
    ] = None,
    schema_version: Annotated[
        int | None, typer.Option("--schema-version", help="Of the data; newest by default")
    ] = None,
    occurred_at: Annotated[
        str | None, typer.Option("--occurred-at", help="ISO 8601 with offset; now by default")
    ] = None,
    target: Annotated[list[str] | None, typer.Option(help="Only to this system; may be repeated")] = None,
    priority: Annotated[str | None, typer.Option(help="CRITICAL, HIGH or MEDIUM")] = None,
    correlation_id: Annotated[str | None, typer.Option("--correlation-id", help="Carried through")] = None,
    causation_id: Annotated[str | None, typer.Option("--causation-id", help="Carried through")] = None,
    system: Annotated[str | None, typer.Option(help="Publish as this system; hub by default")] = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Publish one event, or a file of events, and print the receipts: event id, sequence, revision, cursor, and
    whether it was there already."""
    if (name is None) == (file is None):
        raise UsageError("publish what?", "Give TYPE.ACTION with --data, or --file")
    own = {
        "event_id": event_id,
        "expected_revision": expected_revision,
        "schema_version": schema_version,
        "occurred_at": occurred_at,
        "targets": target or None,
        "priority": priority,
        "correlation_id": correlation_id,
        "causation_id": causation_id,
    }
    given = {key: value for key, value in own.items() if value is not None}
    if file is not None:
        if given or data is not None:
            raise UsageError(
                "--file takes each event's fields from its line", "Leave out --data and the event's options"
            )
        sender = _sender(access(url, token, data_dir, system=system), tenant, system, json)
        if not asyncio.run(_publish_file(sender, file)):
            raise typer.Exit(1)
        return
    assert name is not None
    type_, dot, action = name.partition(".")
    if not dot or not type_ or not action:
        raise UsageError(f"{name} is not TYPE.ACTION", "Write it like reservation.created")
    if data is None:
        raise UsageError("the event has no data", "Give --data JSON, --data @FILE or --data -")
    event = {"type": type_, "action": action} | given
    sender = _sender(access(url, token, data_dir, system=system), tenant, system, json)
    asyncio.run(_publish_one(sender, event, _data(data)))


@dataclass(slots=True)
class _Sender:
    """Where events go, and what is filled in."""

    access: Access
    system: str
    tenant: str | None
    json: bool
    failed: int = 0
    stored: int = 0

    def completed(self, raw: bytes, event: Mapping[str, Any]) -> bytes:
        """The event's own text with an id, so that it can be sent again, and a tenant.

        Not parsed and written anew: its numbers stay as they were written.
        """
        added: dict[str, str] = {}
        if event.get("event_id", "") is None:
            return orjson.dumps({**event, "event_id": str(uuid_utils.uuid7()), **self._tenant_of(event)})
        if "event_id" not in event:
            added["event_id"] = str(uuid_utils.uuid7())
        added |= self._tenant_of(event)
        if not added or not event:
            return raw
        return orjson.dumps(added)[:-1] + b"," + raw.lstrip()[1:]

    def _tenant_of(self, event: Mapping[str, Any]) -> dict[str, str]:
        return {"tenant_id": self.tenant} if self.tenant is not None and "tenant_id" not in event else {}

    def token(self) -> str:
        """A fresh one for each request, where they are signed here."""
        return self.access.token(self.system)

    def receipt(self, receipt: Mapping[str, Any]) -> None:
        """Print what became of one event."""
        self.stored += 1
        if self.json:
            line(compact(receipt))
        elif on_terminal():
            again = "  (was there already)" if receipt["duplicate"] else ""
            line(f"{receipt['event_id']}  sequence {receipt['sequence']}  revision {receipt['revision']}{again}")
        else:
            names = ("event_id", "sequence", "revision", "cursor", "duplicate")
            line("\t".join(compact(receipt[name]).strip('"') for name in names))

    def refusal(self, number: int, text: str) -> None:
        """Say what is wrong with a line."""
        self.failed += 1
        note(f"line {number}: {text}")


def _sender(reached: Access, tenant: str | None, system: str | None, json: bool) -> _Sender:
    if tenant is None and reached.signs:
        tenant = DEFAULT_TENANT
    return _Sender(reached, system or HUB, tenant, json)


def _data(text: str) -> bytes:
    if text == "-":
        raw = sys.stdin.buffer.read()
    elif text.startswith("@"):
        try:
            raw = Path(text[1:]).read_bytes()
        except OSError as error:
            raise CommandError(f"{text[1:]} cannot be read: {error.strerror}", "Name a file with JSON") from error
    else:
        raw = text.encode(errors="surrogateescape")
    try:
        strict_json.loads(raw)
    except Problem as problem:
        raise CommandError(f"the data is not acceptable JSON: {problem.detail}", "Correct it") from None
    return raw


async def _publish_one(sender: _Sender, event: dict[str, Any], data: bytes) -> None:
    raw = sender.completed(orjson.dumps(event)[:-1] + b',"data":' + data + b"}", event)
    async with Remote(sender.access) as remote:
        try:
            receipt = await Resender(note)(lambda: remote.post("events", raw, sender.token()))
        except Refused as refused:
            raise CommandError(_reason(refused.problem), refused.fix) from None
    sender.receipt(receipt)


def _reason(problem: Mapping[str, Any]) -> str:
    """What is wrong, every field of it."""
    errors = problem.get("errors") or ()
    if len(errors) > 1:
        return "; ".join(f"{error['path']}: {error['message']}" for error in errors)
    detail = str(problem.get("detail") or problem.get("title") or problem.get("code"))
    latest = problem.get("latest")
    return detail if not latest else f"{detail}; the latest is {compact(latest)}"


@dataclass(slots=True)
class _Batch:
    numbers: list[int] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)
    size: int = 0

    def fits(self, raw: bytes) -> bool:
        return len(self.events) < MAX_BATCH_EVENTS and self.size + len(raw) + 1 <= _MAX_BATCH_BYTES

    def add(self, number: int, raw: bytes) -> None:
        self.numbers.append(number)
        self.events.append(raw)
        self.size += len(raw) + 1


async def _publish_file(sender: _Sender, file: str) -> bool:
    batch, send = _Batch(), Resender(note)
    with _opened(file) as source, Bar("events published", None) as bar:
        async with Remote(sender.access) as remote:
            for number, raw in _events(sender, source):
                if not batch.fits(raw):
                    await _send(sender, remote, send, batch)
                    bar.at(sender.stored, time.monotonic())
                    batch = _Batch()
                batch.add(number, raw)
            if batch.events:
                await _send(sender, remote, send, batch)
    if sender.failed:
        note(f"{sender.failed} events were not published, {sender.stored} were")
    return sender.failed == 0


def _events(sender: _Sender, source: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The events that may be sent, each with its line; what is wrong with the others is said."""
    for number, raw in enumerate(source, start=1):
        text = raw.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else raw.strip()
        if not text:
            continue
        try:
            event = strict_json.loads(text)
        except Problem as problem:
            sender.refusal(number, problem.detail)
            continue
        if not isinstance(event, dict):
            sender.refusal(number, "an event is a JSON object with type, action and data")
            continue
        completed = sender.completed(text, event)
        if len(completed) > _MAX_BATCH_BYTES:
            sender.refusal(number, f"the event is {len(completed)} bytes, too large for the hub")
            continue
        yield number, completed


async def _send(sender: _Sender, remote: Remote, send: Resender, batch: _Batch) -> None:
    body = b'{"events":[' + b",".join(batch.events) + b"]}"
    try:
        answer = await send(lambda: remote.post("events", body, sender.token()))
    except CommandError as error:
        error.args = (sentences(f"stopped at line {batch.numbers[0]}: {error.message}", error.fix),)
        raise
    for number, receipt in zip(batch.numbers, answer["receipts"], strict=True):
        if "problem" in receipt:
            sender.refusal(number, _reason(receipt["problem"]))
        else:
            sender.receipt(receipt)


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        source = Path(file).open("rb")  # noqa: SIM115 - closed below; the errors of opening are told apart from others
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}", "Name a file with one event a line") from error
    with source:
        yield source
