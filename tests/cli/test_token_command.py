"""`hub token`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from hub_process import HubProcess

from hub.cli.main import main
from hub.security.tokens import Tokens, own_key


def claims(token: str) -> dict[str, Any]:
    """What a token says, unverified."""
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


def test_it_prints_the_token_and_nothing_else(hub: HubProcess) -> None:
    """So that a shell can take it; a hub on that data directory accepts it."""
    done = hub.call("token", "--system", "hotel-pms", "--tenant", "default")

    assert done.stderr == ""
    token = done.stdout.removesuffix("\n")
    told = claims(token)
    assert told["scopes"] == ["publish:*", "subscribe:*"]
    assert (told["system"], told["tenants"], told["view"]) == ("hotel-pms", ["default"], "full")
    assert hub.call("events", "--token", token).returncode == 0
    assert "lacks the scope ops" in hub.call("lag", "--token", token).stderr


def test_every_option_stands_in_the_token(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scopes, tenants, view, lifetime, device and subject."""
    arguments = ["--system", "terminal", "--tenant", "t1", "--tenant", "t2", "--scope", "publish:order.*", "--scope"]
    arguments += ["sync", "--view", "masked", "--expires", "30m", "--device-id", "D1", "--subject", "ann"]
    assert main(["token", *arguments]) == 0

    out, err = capsys.readouterr()
    assert "made the hub's key" in err
    found = Tokens([own_key(bare / ".hub")]).verify(out.strip())
    assert (found.system, set(found.tenants), set(found.scopes)) == (
        "terminal",
        {"t1", "t2"},
        {"publish:order.*", "sync"},
    )
    assert (found.view, found.device_id, found.subject) == ("masked", "D1", "ann")
    told = claims(out.strip())
    assert (bare / ".hub").stat().st_mode & 0o777 == 0o700
    assert (bare / ".hub" / "keys" / "hub.pem").stat().st_mode & 0o777 == 0o600
    capsys.readouterr()

    assert main(["token", *arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    told = json.loads(out)
    assert (told["expires_in"], claims(told["token"])["system"]) == (1800, "terminal")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scope", "everything"], "--scope everything is not a scope"),
        (["--scope", "publish"], "--scope publish is not a scope"),
        (["--scope", "publish:"], "is not a scope"),
        (["--scope", "delete:*"], "is not a scope"),
        (["--scope", "publish:Reservation.*"], "is not a scope"),
        (["--scope", "publish:reservatoin.*"], "names an unknown type"),
        (["--scope", "subscribe:room.painted"], "Known: status_changed"),
        (["--view", "none"], "--view none"),
        (["--expires", "8"], "--expires 8"),
        (["--expires", "0h"], "--expires 0h"),
        (["--expires", "1000d"], "at most 366d"),
        (["--tenant", "a b"], "'a b' is not a tenant id"),
        (["--system", "PMS"], "system must be a name like hotel-pms"),
    ],
)
def test_what_would_make_a_useless_token_is_refused(
    arguments: list[str], said: str, bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A scope nobody knows, a lifetime that is none: told now, not by the first refused request."""
    assert main(["token", "--system", "hotel-pms", "--tenant", "default", *arguments]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


def test_a_key_that_others_can_read_is_not_used(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has to be closed first."""
    assert main(["token", "--system", "hub", "--tenant", "*"]) == 0
    key = bare / ".hub" / "keys" / "hub.pem"
    key.chmod(0o644)
    capsys.readouterr()

    assert main(["token", "--system", "hub", "--tenant", "*"]) == 1

    assert "Run chmod 600" in capsys.readouterr().err
