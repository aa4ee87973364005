"""What a desk is told once: where the hub is, whose desk it is, and how its property's day runs. Nothing secret."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any, Final, Self
from urllib.parse import urlsplit, urlunsplit
from zoneinfo import ZoneInfo

import orjson

from consumers.errors import ConsumerError, Disconnected
from consumers.offline.capabilities import OFFLINE
from consumers.offline.house import HouseDay
from consumers.offline.terminal_console import LANGUAGES, Language
from schemas.types import CURRENCY_FORM, TENANT_FORM

DEFAULT_URL: Final = "ws://localhost:3400/ws"
COMMAND_S: Final = 30.0
"""How long the command that fetches a token may take."""

_CONFIG: Final = "desk.json"
_HOLDER: Final = "desk.holder"
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class SetupError(ConsumerError):
    """Something that the desk was told cannot be; says what would do."""


@dataclass(frozen=True, slots=True)
class DeskSetup:
    """One desk's setup, kept as `desk.json` beside its database."""

    url: str
    tenant_id: str
    system: str
    device_id: str | None = None
    """None: the database's own."""
    zone: str = "Asia/Tokyo"
    """The property's IANA time zone."""
    rollover_hour: int = 5
    """The hour at which the property's business day turns."""
    currency: str | None = None
    """ISO 4217; None: the tenant's."""
    language: Language = "ja"

    def __post_init__(self) -> None:
        """Raises `SetupError`."""
        if not re.fullmatch(TENANT_FORM, self.tenant_id):
            raise SetupError(f"tenant: {self.tenant_id!r} is none; like default")
        if self.system not in OFFLINE:
            raise SetupError(f"system: {self.system!r} has no desk; one of {', '.join(OFFLINE)}")
        if not 0 <= self.rollover_hour <= 23:
            raise SetupError(f"rollover hour: {self.rollover_hour} is none, from 0 to 23")
        if self.language not in LANGUAGES:
            raise SetupError(f"language: {self.language!r} is none of {', '.join(LANGUAGES)}")
        if self.currency is not None and not re.fullmatch(CURRENCY_FORM, self.currency):
            raise SetupError(f"currency: {self.currency!r} is none of ISO 4217, like JPY")
        try:
            ZoneInfo(self.zone)
        except (ValueError, OSError, KeyError) as error:
            raise SetupError(f"zone: {self.zone!r} is no IANA time zone, like Asia/Tokyo") from error

    @property
    def calendar(self) -> HouseDay:
        """The property's calendar."""
        return HouseDay(ZoneInfo(self.zone), self.rollover_hour)

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        """The desk's setup; None: it is new.

        Raises:
            SetupError: it cannot be read.
        """
        path = directory / _CONFIG
        known = {field.name for field in fields(cls)}
        try:
            read = orjson.loads(path.read_bytes())
            return cls(**{name: value for name, value in read.items() if name in known})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise SetupError(f"{path} cannot be read ({error}): put it right, or remove it and set up anew") from error

    def save(self, directory: Path) -> None:
        """Keep it.

        Raises:
            SetupError: it cannot be kept.
        """
        _write(directory / _CONFIG, asdict(self))


def make_directory(directory: Path) -> None:
    """The desk's own directory: guests' data are for its user alone.

    Raises:
        SetupError: it cannot be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"{directory} cannot be made: {error.strerror}; choose another --data-dir") from error


def hub_url(text: str) -> str:
    """The hub's WebSocket by what a person typed: `http://host:3400` and `host:3400` will do as well.

    Raises:
        SetupError: it is no address.
    """
    text = text.strip()
    if "://" not in text:
        text = f"ws://{text}"
    try:
        parts = urlsplit(text)
        # An address in brackets that do not close, or a port beyond 65535, is told by asking.
        there = parts.hostname is not None and parts.port != 0
    except ValueError:
        there = False
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme) if there else ""
    if scheme not in ("ws", "wss"):
        raise SetupError(f"url: {text!r} is none; the hub's is like {DEFAULT_URL}")
    return urlunsplit((scheme, parts.netloc, parts.path if parts.path.strip("/") else "/ws", "", ""))


def in_the_clear(url: str) -> bool:
    """Whether what goes there can be read on the way (R87)."""
    parts = urlsplit(url)
    return parts.scheme == "ws" and parts.hostname not in _LOOPBACK


def claims_of(token: str) -> Mapping[str, Any]:
    """What a token says of itself, unverified; nothing where it cannot be read."""
    try:
        body = token.split(".")[1]
        claims = orjson.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


async def token_by(command: bytes) -> str:
    """The token that a command prints, as the desk was given it: a way to have a fresh one without asking anybody.

    Raises:
        Disconnected: it gave none; a later attempt may.
    """
    words = shlex.split(command.decode())
    try:
        process = await asyncio.create_subprocess_exec(*words, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    except OSError as error:
        raise Disconnected(f"the command for a token cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(COMMAND_S):
            printed, _ = await process.communicate()
    except TimeoutError as error:
        raise Disconnected("the command for a token takes too long") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    token = printed.decode("ascii", "replace").strip()
    if process.returncode or not token:
        raise Disconnected(f"the command for a token gave none (exit code {process.returncode})")
    return token


# -- who has it -------------------------------------------------------------------------------------------------------


def hold(directory: Path, operator: str | None = None) -> None:
    """Say who works on the desk's files. Only for people: the lock is the database's own."""
    held = {"pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds"), "operator": operator}
    _write(directory / _HOLDER, held)


def let_go(directory: Path) -> None:
    """Nobody does any more."""
    (directory / _HOLDER).unlink(missing_ok=True)


def holder(directory: Path) -> str:
    """Who works on the desk's files, in words."""
    try:
        held = orjson.loads((directory / _HOLDER).read_bytes())
        pid = int(held["pid"])
        os.kill(pid, 0)
    except (OSError, ValueError, TypeError, KeyError):
        return "another program"
    by = f", {held['operator']}" if held.get("operator") else ""
    return f"hub-terminal (process {pid}{by}, since {held.get('since')})"


def _write(path: Path, tree: Mapping[str, Any]) -> None:
    beside = path.with_name(path.name + ".new")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(orjson.dumps(tree, option=orjson.OPT_INDENT_2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror}") from error
