"""How commands end: exit codes, and errors that say what is wrong and what to do."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hub_process import HubProcess, clean_environment, free_port, interrupted, line_with, run, started

from hub import settings
from hub.cli.failure import sentences
from hub.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-command"], "No such command 'no-such-command'"),
        (["lag", "--no-such-option"], "No such option: --no-such-option"),
        (["token"], "Missing option '--system'"),
        (["events", "--limit", "none"], "Invalid value for '--limit'"),
        (["publish"], "publish what?"),
        (["publish", "reservation", "--data", "{}"], "reservation is not TYPE.ACTION"),
        (["publish", "room.status_changed"], "the event has no data"),
        (["publish", "--file", "x", "--data", "{}"], "--file takes each event's fields from its line"),
        (["tail", "--url", "http://"], "--url http:// is not the address of a hub"),
        (["tail", "--url", "http://127.0.0.1:1", "--token", "t", "--system", "hotel-pms"], "--system is for tokens"),
        (["dead-letters", "redrive", "--group", "archiver"], "which dead letters?"),
        (["dead-letters", "discard", "--group", "archiver", "--all"], "cannot be undone. Say --yes."),
        (["tenants", "set", "default"], "nothing to set"),
        (["schemas", "show", "nothing"], "there is no schema nothing"),
        (["demo", "--bookings", "nowhere.csv"], "--bookings nowhere.csv is no file"),
    ],
)
def test_a_wrong_call_is_told_on_stderr_with_code_2(
    arguments: list[str], said: str, bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Usage errors are one line on stderr, name what is wrong, and leave stdout to results."""
    assert main(["token", "--system", "hub", "--tenant", "*"]) == 0  # makes a key, so that commands come further
    capsys.readouterr()

    assert main(arguments) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_setting_that_does_not_exist_is_named(
    bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt variable stops every command instead of being ignored."""
    monkeypatch.setenv("HUB_PORTT", "3401")

    for command in ("serve", "lag", "config", "doctor"):
        assert main([command]) == 1
        assert "HUB_PORTT is not a setting" in "".join(capsys.readouterr())


def test_without_token_and_key_the_way_to_one_is_told(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A client on a machine without a hub hears of `hub token`, and makes no key of its own."""
    assert main(["lag"]) == 1

    assert "`hub token` makes one" in capsys.readouterr().err
    assert list(bare.iterdir()) == []


def test_the_hubs_own_key_is_not_used_for_other_machines(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A token that opens everything is never signed for an address that somebody typed."""
    assert main(["token", "--system", "hub", "--tenant", "*"]) == 0

    assert main(["lag", "--url", "http://hub.example.com:3400"]) == 1

    assert "another machine and there is no token" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["lag"], ["tail"], ["publish", "room.status_changed", "--data", "{}"], ["simulate"]]
)
def test_where_no_hub_answers_the_command_says_so_at_once(
    command: list[str], bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listening is an error with its fix, not a wait."""
    monkeypatch.setenv("HUB_PORT", str(free_port()))
    assert main(["token", "--system", "hub", "--tenant", "*"]) == 0

    assert main(command) == 1

    assert "error: no hub answers at http://127.0.0.1:" in capsys.readouterr().err


def test_something_that_is_no_hub_is_told_from_one(
    hub: HubProcess, bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another web server on that address is named for what it is."""
    assert main(["lag", "--url", f"{hub.url}/elsewhere", "--token", "t"]) == 1

    assert "error: " in capsys.readouterr().err


def test_a_refused_token_says_how_to_get_a_good_one(
    hub: HubProcess, bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over HTTP and over WebSocket alike."""
    for command in (["lag"], ["tail"]):
        assert main([*command, "--url", hub.url, "--token", "nonsense"]) == 1
        assert "Give a token of this hub (`hub token`)" in capsys.readouterr().err


def test_ctrl_c_is_code_130(monkeypatch: pytest.MonkeyPatch, bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An interrupted command says nothing and has the shell's code for it."""

    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(settings, "load", interrupt)

    assert main(["config"]) == 130
    assert capsys.readouterr() == ("", "")


async def test_a_tail_that_is_interrupted_ends_without_a_traceback(hub: HubProcess) -> None:
    """SIGINT ends a running command with 130 and no further word."""
    async with hub.command("tail", "--after", "earliest", "--tenant", "interrupted") as tail:
        hub.publish(range(1), "interrupted")
        await line_with(tail, "room:r0")

        tail.send_signal(signal.SIGINT)
        _, said = await tail.communicate()

        assert tail.returncode == 130
        assert said == b""


async def test_a_reader_that_has_enough_is_no_error(hub: HubProcess) -> None:
    """`hub tail | head` leaves no traceback behind."""
    async with hub.command("tail", "--after", "earliest", "--tenant", "headed") as tail:
        hub.publish(range(2), "headed")
        await line_with(tail, "room:r1")
        assert tail.stdout is not None
        tail.stdout._transport.close()  # type: ignore[attr-defined]  # what `head` does
        hub.publish(range(2, 400), "headed")

        assert tail.stderr is not None
        said = await tail.stderr.read()
        assert await tail.wait() == 1
        assert said == b""


def test_sentences_end_once() -> None:
    """Whatever the parts end with, an error reads as sentences."""
    assert sentences("it failed", "Mend it.") == "it failed. Mend it."
    assert sentences("what?", "") == "what?"


class TestServe:
    """`hub serve`."""

    def test_a_second_hub_on_a_data_directory_names_the_first(self, hub: HubProcess) -> None:
        """It ends with code 1 and leaves the first alone."""
        done = hub.run("serve", "--port", "0")

        assert done.returncode == 1
        assert "is in use by another hub (pid " in done.stderr
        assert "HUB_DATA_DIR" in done.stderr
        assert "Traceback" not in done.stderr
        assert hub.run("lag").returncode == 0

    def test_a_busy_port_is_told(self, tmp_path: Path) -> None:
        """With the setting that changes it."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            environment = clean_environment(data_dir=tmp_path / "data", port=taken.getsockname()[1])
            done = run("serve", environment=environment, directory=tmp_path)

        assert done.returncode == 1
        assert "Set HUB_PORT to a free port" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--data-dir", "/dev/null/hub"], "Set HUB_DATA_DIR"),
            (["--redis-url", "redis://127.0.0.1:1"], "cannot be reached"),
            (["--redis-url", "http://127.0.0.1"], "unknown scheme 'http'"),
            (["--log-level", "loud"], "HUB_LOG_LEVEL"),
            (["--workers", "0"], "HUB_WORKERS"),
        ],
    )
    def test_what_keeps_it_from_starting_is_told(self, options: list[str], said: str, tmp_path: Path) -> None:
        """Every way of setting it up wrongly is an error, never a traceback."""
        environment = clean_environment(data_dir=tmp_path / "data", port=0)
        done = run("serve", *options, environment=environment, directory=tmp_path)

        assert done.returncode == 1
        assert said in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    async def test_a_signal_ends_it_with_code_0(self, number: signal.Signals, tmp_path: Path) -> None:
        """Being asked to stop is no failure."""
        environment = clean_environment(data_dir=tmp_path / "data", port=0)
        async with started("serve", environment=environment, directory=tmp_path) as hub:
            await line_with(hub, "hub_started", "stderr")

            assert await interrupted(hub, number) == 0


def test_the_installed_program_ends_with_the_commands_code(tmp_path: Path) -> None:
    """`hub` as it lies on the PATH, not only as a module: a wrong call is 2, a failure 1, success 0."""
    program = str(Path(sys.executable).with_name("hub"))
    environment = clean_environment() | {"HUB_DATA_DIR": str(tmp_path)}
    for arguments, code in ((["token", "--bogus"], 2), (["store", "status"], 1), (["config"], 0)):
        done = subprocess.run([program, *arguments], env=environment, capture_output=True, cwd=tmp_path, check=False)
        assert done.returncode == code, (arguments, done.stderr)
