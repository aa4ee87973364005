"""`hub-terminal` and `hub serve` as processes: a guest arrives while the hub is away, and is there once it is back."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import datetime, timedelta
from itertools import takewhile
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import pytest
from hub_process import PATIENCE_S, HubProcess, clean_environment, running_hub

from hub.security.tokens import Tokens, own_key
from schemas.types import HOTEL_PMS

TERMINAL = (sys.executable, "-m", "consumers.offline.terminal")


class Desk:
    """One desk's files, and its program."""

    def __init__(self, directory: Path, hub: HubProcess) -> None:
        token = Tokens([own_key(hub.directory / "data")]).issue(HOTEL_PMS, ["default"], ["sync"])
        self._environment = {
            name: value for name, value in clean_environment(token=token).items() if not name.startswith("HOTEL_DESK")
        } | {
            "HOTEL_DESK_DIR": str(directory / "desk"),
            "HOTEL_DESK_PIN": "7391",
            "HOTEL_DESK_OPERATOR": "佐藤",
            "PYTHONIOENCODING": "utf-8",
        }
        self._options = ("--url", hub.url, "--device", "desk-1", "--language", "en")

    def run(self, *words: str, lines: str | None = None) -> str:
        """What it prints; it must go well."""
        done = subprocess.run(
            [*TERMINAL, *self._options, *words],
            env=self._environment,
            input=lines,
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> subprocess.Popen[str]:
        """It, at its prompt."""
        return subprocess.Popen(
            [*TERMINAL, *self._options],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )


def arrivals(hub: HubProcess) -> list[str]:
    """What the hub has of arrivals."""
    answer = httpx.get(
        f"{hub.url}/api/v1/events",
        headers={"Authorization": f"Bearer {hub.token()}"},
        params={"tenant": "default"},
        timeout=PATIENCE_S,
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    events = [one["event"] for one in answer.json()["events"] if one["event"]["type"] == "checkin_checkout"]
    return [f"{event['entity']} {event['action']} {event['device_id']}" for event in events]


@pytest.mark.process
def test_an_arrival_while_the_hub_is_away_is_there_once(tmp_path: Path) -> None:
    """Kept and marked while nobody answers, sent as the hub is back, told to it once; the states are the same then."""
    today = datetime.now(ZoneInfo("Asia/Tokyo")).date()
    with running_hub(tmp_path) as hub:
        desk = Desk(tmp_path, hub)
        stay = f"--in {today - timedelta(days=1)} --out {today + timedelta(days=1)} --type twin --amount 24000"
        desk.run(lines=f"room 301 --type twin\nbook --id R1 {stay} --guest 山田太郎\nquit\n")
        hub.stop()

        assert "checked in R1, room 301  「同期待ち」" in desk.run("check-in", "R1", "--room", "301")
        # A program that is ended loses nothing either.
        with desk.start() as prompt:
            assert prompt.stdin is not None
            assert prompt.stdout is not None
            prompt.stdin.write("queue\ncharge R1 700\n")
            prompt.stdin.flush()
            told = iter(prompt.stdout.readline, "")
            waiting = [
                line for line in takewhile(lambda line: "charged 700" not in line, told) if "\twaiting\t" in line
            ]
            assert len(waiting) == 4
            prompt.send_signal(signal.SIGTERM)
            assert prompt.wait(PATIENCE_S) == 128 + signal.SIGTERM

        hub.start()
        assert desk.run("sync").startswith("synced: 6 sent")
        assert arrivals(hub) == ["reservation:R1 checked_in desk-1"]
        again = desk.run(lines="sync\nverify\nqueue --json\nquit\n")
        assert "synced: 0 sent" in again
        assert "records are the hub's" in again
        assert "{" not in again
        assert arrivals(hub) == ["reservation:R1 checked_in desk-1"]
