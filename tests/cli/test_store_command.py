"""`hub store`, `hub events verify`, and what `hub doctor` says of the store."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hub_process import HubProcess, eventually, running_hub

from hub.cli.main import main


def archived(hub: HubProcess) -> int:
    """How many events are in the store."""
    done = hub.call("store", "status", "--json")
    return int(json.loads(done.stdout)["events"]) if done.returncode == 0 else -1


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub with 40 events of one tenant and 10 of another in its store."""
    with running_hub(tmp_path_factory.mktemp("kept")) as hub:
        hub.publish(range(40), "naha")
        hub.publish(range(10), "default")
        eventually(lambda: archived(hub) == 50)
        yield hub


@pytest.fixture
def data(kept: HubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data directory of a hub that does not run, with that store."""
    for name in kept.environment:
        if name.startswith("HUB_"):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HUB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HUB_PORT", "0")
    monkeypatch.chdir(tmp_path)
    assert kept.call("store", "backup", str(tmp_path / "copy")).returncode == 0
    (tmp_path / "data").mkdir(mode=0o700)
    shutil.copy(tmp_path / "copy", tmp_path / "data" / "store.db")
    return tmp_path / "data"


def tamper(file: Path, sql: str) -> None:
    """Change the store behind the hub's back."""
    with closing(sqlite3.connect(file, timeout=20)) as connection:
        assert connection.execute(sql).rowcount > 0
        connection.commit()


def asked(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> Any:
    """What a command prints with --json."""
    assert main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def check(hub: HubProcess, name: str, *options: str) -> dict[str, str]:
    """What the doctor says of one thing."""
    checks: list[dict[str, str]] = json.loads(hub.call("doctor", "--json", *options).stdout)["checks"]
    return next(one for one in checks if one["name"] == name)


def test_the_store_tells_what_it_holds(kept: HubProcess) -> None:
    """Where it is, its version, and each tenant's events, while the hub runs."""
    found = kept.json("store", "status")
    assert found["url"] == f"sqlite:///{kept.directory / 'data' / 'store.db'}"
    assert found["bytes"] > 10_000
    assert [(one["tenant_id"], one["events"], one["to_sequence"]) for one in found["tenants"]] == [
        ("default", 10, 10),
        ("naha", 40, 40),
    ]
    lines = kept.call("store", "status").stdout.splitlines()
    assert "events\t50" in lines
    assert any(line.startswith("naha\t40\t1\t40\t") for line in lines)


def test_chains_are_checked(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them, or some; a tampered event is named and the exit code is 1."""
    found = asked(capsys, 0, "events", "verify")
    assert found["ok"]
    assert [(one["tenant_id"], one["events"], one["ok"]) for one in found["tenants"]] == [
        ("default", 10, True),
        ("naha", 40, True),
    ]

    tamper(data / "store.db", "UPDATE events SET entity = 'room:x' WHERE sequence = 25")
    assert asked(capsys, 0, "events", "verify", "--tenant", "default")["ok"]
    found = asked(capsys, 1, "events", "verify", "--tenant", "naha")
    assert "sequence 25, " in found["tenants"][0]["broken"]
    assert "column entity" in found["tenants"][0]["broken"]
    assert main(["events", "verify"]) == 1
    assert "was changed" in capsys.readouterr().out
    assert main(["events", "verify", "--tenant", "none"]) == 1
    assert "no events of none" in capsys.readouterr().err


def test_a_copy_is_put_back(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over a store with events only by force; then it is what it was."""
    copy = str(data.parent / "copy")
    tamper(data / "store.db", "DELETE FROM events WHERE sequence = 25")
    assert main(["store", "restore", copy]) == 1
    assert "holds events; --force" in capsys.readouterr().err
    assert main(["store", "restore", copy, "--force"]) == 0
    assert "50 events of 2 tenants, every chain holds" in capsys.readouterr().err
    assert asked(capsys, 0, "events", "verify")["ok"]
    assert main(["store", "backup", copy]) == 1
    assert "is there already" in capsys.readouterr().err


def test_a_running_hubs_store_is_not_replaced(kept: HubProcess, tmp_path: Path) -> None:
    """Not even by force."""
    assert kept.call("store", "backup", str(tmp_path / "copy")).returncode == 0
    done = kept.call("store", "restore", str(tmp_path / "copy"), "--force")
    assert done.returncode == 1
    assert "stop the hub" in done.stderr
    assert archived(kept) == 50


def test_without_a_store_none_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command says so."""
    monkeypatch.setenv("HUB_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("HUB_STORE_URL", raising=False)
    for arguments in (["store", "status"], ["events", "verify"], ["store", "rebuild"], ["store", "migrate"]):
        assert main(arguments) == 1
        assert "there is no store at" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_a_newer_version_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By all that would read it, and by the doctor."""
    tamper(data / "store.db", "UPDATE alembic_version SET version_num = '9999'")
    for arguments in (["store", "status"], ["events", "verify"], ["store", "rebuild"], ["store", "migrate"]):
        assert main(arguments) == 1
        assert "9999" in capsys.readouterr().err
    checks = {one["name"]: one for one in asked(capsys, 1, "doctor")["checks"]}
    assert "9999" in checks["store"]["detail"]


def test_entities_are_made_anew(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From every event there is."""
    assert main(["store", "rebuild"]) == 0
    assert "50 events projected" in capsys.readouterr().err
    assert main(["store", "migrate"]) == 0


def test_the_doctor_holds_log_and_store_against_each_other(kept: HubProcess) -> None:
    """They say the same of the newest events, and of all."""
    for options in ((), ("--full",)):
        found = check(kept, "archive", *options)
        assert found["status"] == "ok"
        assert "50 events compared with the log, all the same; nothing waits" in found["detail"]
        assert check(kept, "chain", *options)["detail"] == "all 50 events of 2 tenants"
    assert "50 events of 2 tenants" in check(kept, "store")["detail"]


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("DELETE FROM events WHERE sequence = 33", "sequence 33, stored at"),
        ("UPDATE events SET body = body || ' ' WHERE sequence = 33", "the archive holds another body than the log"),
        ("UPDATE events SET recorded_ms = 5 WHERE sequence = 33", "timestamp_ms is 1"),
        ("UPDATE events SET id_n = id_n + 500 WHERE sequence = 33", "is in the log, and not in the archive"),
        ("UPDATE tenants SET sequence = 99 WHERE position = 40", "naha: the archive has events up to sequence 99"),
    ],
)
def test_the_doctor_names_the_first_difference(kept: HubProcess, sql: str, told: str) -> None:
    """A row that is gone, another, changed or elsewhere, and a head that the log does not know."""
    file = kept.directory / "data" / "store.db"
    with closing(sqlite3.connect(file, timeout=20)) as connection:
        rows = connection.execute("SELECT * FROM events").fetchall()
        heads = connection.execute("SELECT tenant_no, sequence FROM tenants").fetchall()
    try:
        tamper(file, sql)
        found = check(kept, "archive")
        assert found["status"] == "fail"
        assert told in found["detail"]
    finally:
        with closing(sqlite3.connect(file, timeout=20)) as connection:
            connection.execute("DELETE FROM events")
            connection.executemany(f"INSERT INTO events VALUES ({','.join('?' * len(rows[0]))})", rows)
            connection.executemany("UPDATE tenants SET sequence = ?2 WHERE tenant_no = ?1", heads)
            connection.commit()
    assert check(kept, "archive")["status"] == "ok"
