"""The load's own processes: told on standard input what to do, ready on a word, started on a word, result as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any, Final, Self

from hub.bench.raw import LoadError

READY: Final = "ready"
GO: Final = "go"


class LoadProcess:
    """A module run in a process of its own; leaving the block ends it."""

    def __init__(self, module: str, specification: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._say(json.dumps(specification))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None and kind is not None:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def until_ready(self) -> None:
        """Wait until it has set itself up.

        Raises:
            LoadError: it ended instead; it has said why on standard error.
        """
        if self._line() != READY:
            raise LoadError("the load could not be set up")

    def go(self) -> None:
        """Let it begin."""
        self._say(GO)

    def result(self) -> dict[str, Any]:
        """Wait for its end and result.

        Raises:
            LoadError: it failed; it has said why on standard error.
        """
        line = self._line()
        if not line:
            raise LoadError("the load failed")
        found: dict[str, Any] = json.loads(line)
        return found

    def _say(self, line: str) -> None:
        pipe = _open(self._process.stdin)
        pipe.write(line + "\n")
        pipe.flush()

    def _line(self) -> str:
        return _open(self._process.stdout).readline().strip()


def _open(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


@contextmanager
def _ended_pipe() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise SystemExit(1) from None


def serve_load(run: Callable[[dict[str, Any], Callable[[], None]], dict[str, Any]]) -> None:
    """The other side: `run` gets the specification and a function that says ready and waits for the word."""
    specification = json.loads(sys.stdin.readline())

    def ready() -> None:
        with _ended_pipe():
            print(READY, flush=True)
        if sys.stdin.readline().strip() != GO:
            raise SystemExit(1)

    try:
        result = run(specification, ready)
    except (LoadError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1) from None
    with _ended_pipe():
        print(json.dumps(result), flush=True)
