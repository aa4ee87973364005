"""`hub doctor`: every check, well and unwell."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hub_process import HubProcess, eventually, free_port
from redis import Redis

from hub.cli import checks
from hub.cli.main import main
from hub.log.binary import find_server
from hub.log.keys import Keys
from hub.log.topology import Source


def examined(capsys: pytest.CaptureFixture[str], code: int) -> dict[str, Any]:
    """The checks by name, after a run with this exit code."""
    assert main(["doctor", "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] == (code == 0)
    assert all(check["fix"] for check in found["checks"] if check["status"] != "ok")
    return {check["name"]: check for check in found["checks"]}


@contextmanager
def redis_server(*options: str) -> Iterator[tuple[str, Any]]:
    """A server of one's own, its URL and a client."""
    with tempfile.TemporaryDirectory(prefix="hub") as directory:
        path = Path(directory, "s.sock")
        arguments = ("--port", "0", "--unixsocket", str(path), "--dir", directory, "--save", "", *options)
        server = subprocess.Popen([find_server().path, *arguments], stdout=subprocess.DEVNULL)
        client: Any = Redis.from_url(f"unix://{path}", decode_responses=True)
        try:
            eventually(path.exists)
            yield f"unix://{path}", client
        finally:
            client.close()
            server.kill()  # it holds nothing, and need not be asked
            server.wait()


def test_a_running_hub_is_well(hub: HubProcess) -> None:
    """Everything is looked at, and all of it is in order."""
    done = hub.call("doctor")

    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert {line[0] for line in lines} == {"ok"}
    assert [line[1] for line in lines] == [
        *("settings", "data dir", "key", "program", "port", "readyz"),
        *("redis", "durability", "clock", "groups", "store", "chain", "archive", "disk"),
    ]


def test_before_the_first_start_nothing_is_made(
    bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is well where a hub could start, and looking leaves no trace."""
    monkeypatch.setenv("HUB_PORT", str(free_port()))

    found = examined(capsys, 0)

    assert "will be made at first start" in found["data dir"]["detail"]
    assert "no hub runs" in found["port"]["detail"]
    assert list(bare.iterdir()) == []


def test_a_port_that_something_else_has_fails(
    bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it answers in HTTP or not at all."""
    monkeypatch.setattr(checks, "_HTTP_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("HUB_PORT", str(taken.getsockname()[1]))

        assert "no hub" in examined(capsys, 1)["port"]["detail"]


def test_a_data_directory_open_to_others_is_warned_of(
    bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that closes it; a file in its place fails."""
    monkeypatch.setenv("HUB_PORT", "0")
    (bare / ".hub").mkdir(mode=0o755)
    found = examined(capsys, 0)
    assert (found["data dir"]["status"], found["data dir"]["fix"]) == ("warn", "chmod 700 .hub")

    monkeypatch.setenv("HUB_DATA_DIR", "file")
    (bare / "file").write_text("")
    assert examined(capsys, 1)["data dir"]["status"] == "fail"


def test_keys_that_cannot_be_used_fail(
    bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's own, and those of other issuers."""
    monkeypatch.setenv("HUB_PORT", "0")
    assert main(["token", "--system", "hub", "--tenant", "*"]) == 0
    capsys.readouterr()
    assert examined(capsys, 0)["key"]["detail"].startswith("hub-")
    (bare / ".hub" / "keys" / "hub.pem").chmod(0o640)
    assert "chmod 600" in examined(capsys, 1)["key"]["fix"]

    monkeypatch.setenv("HUB_DATA_DIR", "other")
    monkeypatch.setenv("HUB_JWT_KEYS", "keys.json")
    assert examined(capsys, 1)["key"]["status"] == "fail"


def test_a_redis_that_is_away_or_loses_events_is_told(
    bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not reachable fails; not durable, or evicting, is a warning with the settings it needs."""
    monkeypatch.setenv("HUB_PORT", "0")
    monkeypatch.setenv("HUB_REDIS_URL", "redis://127.0.0.1:1")
    assert examined(capsys, 1)["redis"]["status"] == "fail"

    with redis_server("--appendonly", "no") as (url, client):
        monkeypatch.setenv("HUB_REDIS_URL", url)
        found = examined(capsys, 0)
        assert (found["durability"]["status"], found["redis"]["status"]) == ("warn", "ok")
        assert "appendonly is off" in found["durability"]["detail"]
        assert "no log there yet" in found["log"]["detail"]

        client.config_set("appendonly", "yes")
        client.config_set("appendfsync", "always")
        assert examined(capsys, 0)["durability"]["status"] == "ok"
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert "may evict events" in examined(capsys, 0)["durability"]["detail"]


def test_a_log_of_another_shape_fails(
    bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another number of partitions, or groups that somebody removed."""
    monkeypatch.setenv("HUB_PORT", "0")
    keys = Keys("hub")
    with redis_server() as (url, client):
        monkeypatch.setenv("HUB_REDIS_URL", url)
        client.hset(keys.meta, "partitions", 4)
        assert examined(capsys, 1)["log"]["fix"] == "Set HUB_PARTITIONS=4"

        monkeypatch.setenv("HUB_PARTITIONS", "4")
        monkeypatch.setenv("HUB_GROUPS", "archiver,webhooks")
        for partition in range(4):
            client.xgroup_create(keys.events(partition), "archiver", id="0", mkstream=True)
            if partition:
                client.xgroup_create(keys.events(partition), "webhooks", id="0")
        assert examined(capsys, 1)["groups"]["detail"] == "missing: webhooks"
        client.xgroup_create(keys.events(0), "webhooks", id="0")
        assert examined(capsys, 0)["groups"]["status"] == "ok"


@pytest.mark.parametrize(("ahead", "status"), [(0.2, "ok"), (5, "warn"), (-5, "warn"), (300, "fail")])
async def test_clocks_that_differ_are_told(ahead: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second is a warning, a minute a failure, in either direction."""

    class Client:
        async def time(self) -> tuple[int, int]:
            return int(1000 + ahead), round((1000 + ahead) % 1 * 1e6)

    monkeypatch.setattr(time, "time", lambda: 1000.0)

    found = await checks._clock(Source(Client(), False, ""))
    assert (found.status, bool(found.fix)) == (status, status != "ok")


@pytest.mark.parametrize(("free", "status"), [(10 << 30, "ok"), (500 << 20, "warn"), (1 << 20, "fail")])
def test_a_full_disk_is_told(free: int, status: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Under a gibibyte is a warning, under a tenth of that a failure."""

    class Usage:
        def __init__(self) -> None:
            self.free = free

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage())

    assert checks._disk(tmp_path / "not" / "there").status == status
