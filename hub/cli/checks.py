"""What `hub doctor` looks at. Nothing here changes anything."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from hub import settings as hub_settings
from hub.cli.access import key_file
from hub.cli.check import Check, Status
from hub.cli.store_checks import store_checks
from hub.errors import StartError
from hub.log.binary import find_server
from hub.log.embedded import EmbeddedServer
from hub.log.groups import group_states
from hub.log.keys import Keys
from hub.log.setup import check_server, durability
from hub.log.stream_log import StreamLog
from hub.log.topology import RedisError, Source, connect
from hub.security.tokens import keys_from_file, own_key
from hub.settings import Settings

SKEW_WARN_S: Final = 1.0
SKEW_FAIL_S: Final = 60.0
DISK_WARN_BYTES: Final = 1 << 30
DISK_FAIL_BYTES: Final = 100 << 20
_HTTP_S: Final = 5.0


async def examine(data_dir: Path | None = None, *, full: bool = False) -> list[Check]:
    """Look at everything; at every event in log and store only if `full`, else at the newest ones.

    With wrong settings there is nothing else to look at.
    """
    try:
        settings = hub_settings.load(data_dir=data_dir)
    except StartError as error:
        return [Check("settings", "fail", error.message, error.fix)]
    hub = await _ask_hub(settings)
    running = hub is not None and hub.is_hub
    url = settings.redis_url
    if url is None and running:
        url = EmbeddedServer(settings.data_dir).url
    return [
        _settings(settings),
        _data_dir(settings.data_dir),
        _key(settings),
        _program(settings),
        *_port(settings, hub),
        *(await _redis(settings, url)),
        *(await store_checks(settings, url, full=full)),
        _disk(settings.data_dir),
    ]


def _settings(settings: Settings) -> Check:
    chosen = [one for one in hub_settings.explain(settings) if one.origin != "default"]
    names = ", ".join(f"{one.name} ({one.origin})" for one in chosen)
    return Check("settings", "ok", f"{len(chosen)} set: {names}" if chosen else "all at their defaults")


def _data_dir(directory: Path) -> Check:
    name = "data dir"
    try:
        found = directory.stat()
    except FileNotFoundError:
        above = next(parent for parent in directory.absolute().parents if parent.exists())
        if os.access(above, os.W_OK | os.X_OK):
            return Check(name, "ok", f"{directory} will be made at first start")
        return Check(name, "fail", f"{directory} is not there and {above} cannot be written", "Set HUB_DATA_DIR")
    except OSError as error:
        return Check(name, "fail", f"{directory}: {error.strerror}", "Run as the hub's user, or set HUB_DATA_DIR")
    if not stat.S_ISDIR(found.st_mode):
        return Check(name, "fail", f"{directory} is no directory", "Set HUB_DATA_DIR to one")
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        return Check(name, "fail", f"{directory} cannot be written", "Run as the hub's user, or set HUB_DATA_DIR")
    if found.st_mode & 0o077:
        detail = f"{directory} is open to other users (mode {stat.S_IMODE(found.st_mode):o})"
        return Check(name, "warn", detail, f"chmod 700 {directory}")
    return Check(name, "ok", f"{directory}, this user's alone")


def _key(settings: Settings) -> Check:
    path = key_file(settings.data_dir)
    try:
        others = 0 if settings.jwt_keys is None else len(keys_from_file(settings.jwt_keys))
        more = f"; {others} keys of other issuers" if settings.jwt_keys is not None else ""
        if not path.exists():
            return Check("key", "ok", f"{path} will be made at first start{more}")
        return Check("key", "ok", f"{own_key(settings.data_dir).kid}{more}")
    except StartError as error:
        return Check("key", "fail", error.message, error.fix)
    except OSError as error:
        return Check("key", "fail", f"{path}: {error.strerror}", "Run as the hub's user, or set HUB_DATA_DIR")


def _program(settings: Settings) -> Check:
    if settings.redis_url is not None:
        return Check("program", "ok", "no embedded server: HUB_REDIS_URL is set")
    try:
        return Check("program", "ok", f"embedded server: {find_server()}")
    except StartError as error:
        return Check("program", "fail", error.message, error.fix)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What something on the hub's port said."""

    is_hub: bool
    ready: dict[str, Any] | None = None


async def _ask_hub(settings: Settings) -> _Answer | None:
    """None when nobody listens there."""
    if settings.port == 0:
        return None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    url = f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=_HTTP_S, trust_env=False) as client:
            found = (await client.get("/readyz")).json()
            return _Answer(isinstance(found, dict) and "checks" in found, found)
    except httpx.ConnectError:
        return None
    except (httpx.RequestError, ValueError):
        return _Answer(False)


def _port(settings: Settings, answer: _Answer | None) -> list[Check]:
    where = f"{settings.host}:{settings.port}"
    if answer is not None and not answer.is_hub:
        return [Check("port", "fail", f"{where} is taken by something that is no hub", "Set HUB_PORT to a free port")]
    if answer is not None and answer.ready is not None:
        ready = answer.ready
        checks = ready["checks"]
        told = ", ".join(f"{name}: {_told(value)}" for name, value in checks.items())
        state = (
            Check("readyz", "ok", told)
            if ready["ready"]
            else Check("readyz", "fail", told, "See the hub's log; it is ready again when its log server is")
        )
        return [Check("port", "ok", f"{where}: a hub answers, version {ready.get('version')}"), state]
    try:
        with socket.create_server((settings.host, settings.port)):
            return [Check("port", "ok", f"{where} is free; no hub runs")]
    except OSError as error:
        return [Check("port", "fail", f"cannot listen on {where}: {error.strerror}", "Set HUB_PORT to a free port")]


def _told(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value).lower()
    if "detail" in value:
        return str(value["detail"])
    return "ok" if value.get("ok") else str(value)


async def _redis(settings: Settings, url: str | None) -> list[Check]:
    if url is None:
        return [Check("redis", "ok", "the embedded server runs with the hub")]
    try:
        source = connect(url)
    except StartError as error:
        return [Check("redis", "fail", error.message, error.fix)]
    try:
        version = await check_server(source)
    except StartError as error:
        fix = error.fix
        if settings.redis_url is None:
            fix = "The hub on this port may use another data directory; set HUB_DATA_DIR to it"
        await source.aclose()
        return [Check("redis", "fail", error.message, fix)]
    try:
        return [
            Check("redis", "ok", f"{source.shown}: version {version}"),
            await _durability(source),
            await _clock(source),
            *(await _log(settings, source)),
        ]
    except (RedisError, OSError) as error:
        return [Check("redis", "fail", f"{source.shown} failed: {error}", "See its log")]
    finally:
        await source.aclose()


async def _durability(source: Source) -> Check:
    found = await durability(source)
    if found.durable:
        return Check("durability", "ok", f"{found.detail}, nothing is evicted")
    fix = "Run the server with appendonly yes, appendfsync always and maxmemory-policy noeviction"
    return Check("durability", "warn", found.detail, fix)


async def _clock(source: Source) -> Check:
    if source.cluster:
        return Check("clock", "ok", "a cluster's nodes are not asked")
    before = time.time()
    seconds, micros = await source.client.time()
    skew = seconds + micros / 1e6 - (before + time.time()) / 2
    detail = f"the server's clock is {abs(skew):.3f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    status: Status = "fail" if abs(skew) > SKEW_FAIL_S else "warn" if abs(skew) > SKEW_WARN_S else "ok"
    return Check("clock", status, detail, "" if status == "ok" else "Run NTP on both machines")


async def _log(settings: Settings, source: Source) -> Iterable[Check]:
    keys = Keys(settings.key_prefix)
    held = await source.client.hget(keys.meta, "partitions")
    if held is None:
        return [Check("log", "ok", "no log there yet; it is made at first start")]
    if int(held) != settings.partitions:
        detail = f"the log has {int(held)} partitions, this hub is set to {settings.partitions}"
        return [Check("log", "fail", detail, f"Set HUB_PARTITIONS={int(held)}")]
    log = StreamLog(source, keys, settings.partitions, idempotency_s=settings.idempotency_hours * 3600)
    states = await group_states(log, int(time.time() * 1000))
    there = {(state.group, state.partition) for state in states}
    missing = sorted({group for group in settings.groups for p in range(log.partitions) if (group, p) not in there})
    if missing:
        return [Check("groups", "fail", f"missing: {', '.join(missing)}", "Restart the hub: it makes them")]
    lag, pending = sum(state.lag or 0 for state in states), sum(state.pending for state in states)
    return [Check("groups", "ok", f"{', '.join(settings.groups)}: lag {lag}, pending {pending}")]


def _disk(directory: Path) -> Check:
    place = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Check("disk", "fail", f"{place}: {error.strerror}", "Set HUB_DATA_DIR to a directory that can be read")
    status: Status = "fail" if free < DISK_FAIL_BYTES else "warn" if free < DISK_WARN_BYTES else "ok"
    fix = "" if status == "ok" else "Free some space: without it nothing can be stored"
    return Check("disk", status, f"{free / (1 << 30):.1f} GiB free at {place}", fix)
