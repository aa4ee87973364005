"""`hub replay`: into files and to groups, looked at first, cut and continued, and over a hub that is killed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from hub_process import HubProcess, eventually, running_hub

from consumers import StreamConsumer, replay_id
from consumers.inbox import SQLiteInbox
from hub.cli import replay_lines
from hub.cli.remote import Remote
from hub.cli.replay_lines import Lines
from hub.log.embedded import _socket_path
from schemas.cursor import Cursor, StreamId

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def filled(hub: HubProcess) -> HubProcess:
    """A hub with 1,200 events of a tenant `replayed`."""
    for start in range(0, 1200, 300):
        hub.publish(range(start, start + 300), "replayed")
    return hub


def replayed(text: str) -> list[Any]:
    """The sequences of an export that is whole."""
    *lines, end = map(json.loads, text.splitlines())
    assert end["end"]
    assert end["events"] == len(lines)
    return [line["sequence"] for line in lines]


def test_a_history_goes_to_stdout_and_into_a_file(filled: HubProcess, tmp_path: Path) -> None:
    """The same lines; a file that is there is not touched."""
    file = tmp_path / "events.ndjson"
    out = filled.run("replay", "--tenant", "replayed")
    done = filled.run("replay", "--tenant", "replayed", "--to-file", str(file))

    assert (out.returncode, done.returncode) == (0, 0), out.stderr + done.stderr
    assert out.stdout == file.read_text()
    assert replayed(out.stdout) == list(range(1, 1201))
    assert "1200 events" in done.stderr
    again = filled.call("replay", "--tenant", "replayed", "--to-file", str(file))
    assert again.returncode == 2
    assert out.stdout == file.read_text()


def test_it_is_narrowed_like_a_listing(filled: HubProcess) -> None:
    """Cursors, patterns, entities, dates."""

    def sequences(*options: str) -> list[Any]:
        done = filled.run("replay", "--tenant", "replayed", *options)
        assert done.returncode == 0, done.stderr
        return replayed(done.stdout)

    first = json.loads(filled.run("replay", "--tenant", "replayed").stdout.splitlines()[1149])["cursor"]
    assert sequences("--after", first) == list(range(1151, 1201))
    assert sequences("--until", first, "--entity", "room:r7") == [8]
    assert sequences("--patterns", "billing.*,order.*") == []
    assert sequences("--from", "2100-01-01") == []
    assert sequences("--speed", "x100000", "--after", first) == list(range(1151, 1201))


def test_a_dry_run_counts(filled: HubProcess) -> None:
    """As a table, or as JSON."""
    found = filled.json("replay", "--tenant", "replayed", "--dry-run", "--to-group", "hotel-member")
    assert (found["events"], found["by_type"]) == (1200, {"room.status_changed": 1200})
    shown = filled.call("replay", "--tenant", "replayed", "--dry-run")
    assert "room.status_changed\t1200" in shown.stdout
    assert filled.json("replay", "list") == {"replays": []}


def test_what_makes_no_sense_is_said(filled: HubProcess) -> None:
    """Two places, half a channel, a speed that is none, a group that is not there."""
    for arguments, code, words in (
        (("--to-group", "g", "--to-file", "f"), 2, "one place"),
        (("--to-system", "hotel-pms"), 2, "--channel"),
        (("--append",), 2, "--to-file"),
        (("--speed", "fast"), 1, "speed"),
        (("--to-group", "nobody"), 1, "nobody"),
        (("--to-webhook", "w"), 1, "webhook"),
        (("--to-system", "hotel-x", "--channel", "c"), 1, "hotel-x"),
        (("--to-group", "hotel-member", "--from", "2026-02-02", "--to", "2026-02-01"), 1, "from"),
        (("--to-group", "hotel-member", "--from", "2100-02-02"), 1, "empty"),
    ):
        done = filled.call("replay", *arguments)
        assert (done.returncode, words in done.stderr) == (code, True), (arguments, done.stderr)


def test_a_replay_is_begun_followed_paused_and_cancelled(filled: HubProcess) -> None:
    """By the commands, which print it as a line or as JSON."""
    made = filled.json("replay", "--tenant", "replayed", "--to-system", "hotel-pms", "--channel", "c", "--detach")
    replay_id = made["replay_id"]
    assert made["state"] == "running"
    for action, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        assert filled.json("replay", action, replay_id)["state"] == state
    assert f"{replay_id}\tcancelled\thotel-pms c\t1200" in filled.call("replay", "show", replay_id).stdout
    assert replay_id in filled.call("replay", "list").stdout
    assert filled.call("replay", "resume", replay_id).returncode == 1

    done = filled.run("replay", "--tenant", "replayed", "--to-group", "hotel-saas", "--speed", "full")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\tdone\t1200 of 1200 events\n")


def test_a_file_that_was_cut_fails_and_is_continued(
    filled: HubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1 and the option to go on with; then it is the whole, each event once, a half line cut off."""
    file, whole = tmp_path / "events.ndjson", Remote.stream

    async def cut(self: Remote, path: str, **params: Any) -> AsyncGenerator[bytes]:
        size = 0
        async for chunk in whole(self, path, **params):
            yield chunk[:100_001]
            size += len(chunk)
            if size > 100_000:
                raise httpx.RemoteProtocolError("cut")

    monkeypatch.setattr(Remote, "stream", cut)
    failed = filled.call("replay", "--tenant", "replayed", "--to-file", str(file))
    monkeypatch.setattr(Remote, "stream", whole)

    assert failed.returncode == 1
    assert "was cut short after" in failed.stderr
    options = failed.stderr.split("the rest follows with ")[1].splitlines()[0].split()
    assert options[:2] == ["--append", "--after"]
    lines = file.read_text().splitlines()
    assert 0 < len(lines) < 1200
    file.write_text(file.read_text() + '{"cursor":"half a li')
    cut_off = file.read_text()
    for more in (options, ["--append"]):
        file.write_text(cut_off)
        done = filled.run("replay", "--tenant", "replayed", "--to-file", str(file), *more)
        assert done.returncode == 0, done.stderr
        *events, end = map(json.loads, file.read_text().splitlines())
        assert [event["sequence"] for event in events] == list(range(1, 1201))
        assert end["events"] == 1200 - len(lines)


def test_a_file_that_is_whole_is_left_as_it_is(filled: HubProcess, tmp_path: Path) -> None:
    """And says so; what is asked for after a cursor stands before a new end. Only its owner may read it."""
    file = tmp_path / "events.ndjson"
    arguments = ("replay", "--tenant", "replayed", "--to-file", str(file))
    assert filled.call(*arguments).returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    whole = file.read_text()
    again = filled.call(*arguments, "--append")
    assert (again.returncode, "is whole" in again.stderr, file.read_text()) == (0, True, whole)

    *lines, end = whole.splitlines(keepends=True)
    file.write_text("".join(lines[:1100]) + end)
    after = json.loads(lines[1099])["cursor"]
    assert filled.call(*arguments, "--append", "--after", after).returncode == 0
    *events, last = map(json.loads, file.read_text().splitlines())
    assert [event["sequence"] for event in events] == list(range(1, 1201))
    assert last["events"] == 100

    file.write_text(f"a note\n{end}")
    other = filled.call(*arguments, "--append")
    assert (other.returncode, "not the file of an export" in other.stderr) == (1, True)


def test_what_could_not_be_read_is_no_success(
    filled: HubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All the rest is written, the exit code is 1, also when the whole file is asked to go on."""
    file, whole = tmp_path / "events.ndjson", Remote.stream

    async def damaged(self: Remote, path: str, **params: Any) -> AsyncGenerator[bytes]:
        async for chunk in whole(self, path, **params):
            yield chunk.replace(b'"skipped":0', b'"skipped":3')

    monkeypatch.setattr(Remote, "stream", damaged)
    for more in ((), ("--append",)):
        done = filled.call("replay", "--tenant", "replayed", "--to-file", str(file), *more)
        assert (done.returncode, "3 events cannot be read" in done.stderr) == (1, True), done.stderr
        assert len(file.read_text().splitlines()) == 1201


def test_a_stream_without_its_end_is_not_whole() -> None:
    """Nor is one whose end counts more than came."""
    cursor = Cursor.of(7, "t", 1, StreamId(5, 0)).encode()
    line = b'{"cursor":"%b","sequence":1,"replay":true,"event":{}}\n' % cursor.encode()
    for text, whole, events in (
        (line + b'{"end":true,"events":1,"skipped":0,"cursor":null}\n', True, 1),
        (line + b'{"end":true,"events":2,"skipped":0,"cursor":null}\n', False, 1),
        (line, False, 1),
        (line + b'{"end":true,"ev', False, 1),
        (b"", False, 0),
    ):
        lines = Lines("")
        for start in range(0, len(text), 7):
            if found := lines.take(text[start : start + 7]):
                lines.written(found)
        assert (lines.whole, lines.events, lines.after) == (whole, events, cursor if events else "")


def test_only_a_half_line_is_cut_off(tmp_path: Path) -> None:
    """However long the file or the line; and ends, however many."""
    end = b'{"end":true,"events":1,"skipped":0,"cursor":"%b"}\n' % (b"1" * 100_000)
    for kept, half in (
        (b"", b"x" * 200_000),
        (b"a\n" * 70_000, b"b"),
        (b"a\n", b""),
        (b"", b""),
        (b"a\n", end),
        (b"a\n" + end + b"a\n", end + end + b"{"),
        (b"", end),
    ):
        file = tmp_path / "f"
        file.write_bytes(kept + half)
        with file.open("r+b") as output:
            replay_lines._to_last_line(output)
        assert file.read_bytes() == kept


def test_a_hub_that_is_killed_in_a_replay_to_a_group_doubles_nothing(tmp_path: Path) -> None:
    """Killed again and again while it hands over: each event is handed over once, none is left out."""
    with running_hub(tmp_path) as hub:
        for start in range(0, 3000, 500):
            hub.publish(range(start, start + 500))
        url = f"unix://{_socket_path(tmp_path / 'data' / 'log')}"
        made = hub.json("replay", "--to-group", "hotel-pms", "--speed", "full", "--detach")

        def again() -> None:
            hub.kill()
            hub.start()

        handled = asyncio.run(_handle(url, tmp_path / "inbox.db", 3000, again))
        eventually(lambda: hub.json("replay", "show", made["replay_id"])["state"] == "done")

        assert hub.json("replay", "show", made["replay_id"])["progress"]["events"] == 3000
        assert len(handled) == 3000
        assert set(handled.values()) == {1}
        with redis.Redis.from_url(url) as log:
            streams = log.keys("*:redrive:hotel-pms")
            assert sum(log.xinfo_stream(stream)["entries-added"] for stream in streams) == 3000


async def _handle(url: str, database: Path, count: int, again: Callable[[], None]) -> Counter[str]:
    """What a consumer of the group handles of the replay, while the hub is killed at every third of it."""
    handled: Counter[str] = Counter()
    async with await SQLiteInbox.open(database, "hotel-pms") as inbox:
        consumer = StreamConsumer(url, group="hotel-pms", consumer="c", inbox=inbox, lease_s=2)

        @consumer.on("room.*")
        async def on(event: Any, tx: Any) -> None:
            if replay_id() is not None:
                handled[event.event_id] += 1

        async with consumer, asyncio.timeout(90):
            for wanted in (count // 6, count // 2, count):
                while len(handled) < wanted:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                if wanted < count:
                    await asyncio.to_thread(again)
    return handled
