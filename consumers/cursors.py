"""Where a client keeps its cursors: how far it has handled each tenant's events."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import orjson

from consumers.errors import CursorsUnreadable


class CursorStore(Protocol):
    """Keeps one client's cursors, by tenant. The key `*` holds those of tenants not known by name yet.

    `save` replaces the whole map, atomically, and returns once it would survive a crash. The client never calls it
    twice at once.
    """

    async def load(self) -> dict[str, str]:
        """What was saved last; empty at first."""
        ...

    async def save(self, cursors: Mapping[str, str]) -> None:
        """Replace what is kept."""
        ...


class MemoryCursors:
    """Keeps cursors as long as the process lives."""

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}

    async def load(self) -> dict[str, str]:
        """What was saved last."""
        return dict(self._kept)

    async def save(self, cursors: Mapping[str, str]) -> None:
        """Replace what is kept."""
        self._kept = dict(cursors)


class FileCursors:
    """Keeps cursors in one small JSON file, for one client: a file is not shared between clients."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        # A cancelled save goes on in its thread; the next one must come after it.
        self._writing = threading.Lock()

    async def load(self) -> dict[str, str]:
        """What was saved last; empty when there is no file.

        Raises:
            CursorsUnreadable: the file is damaged. It is never taken for an empty one, which would lose the position.
        """
        return await asyncio.to_thread(self._read)

    async def save(self, cursors: Mapping[str, str]) -> None:
        """Write beside the file, fsync, rename over it, fsync the directory.

        Raises:
            OSError: the disk does not take it; the old file stands.
        """
        await asyncio.to_thread(self._write, orjson.dumps(dict(cursors), option=orjson.OPT_INDENT_2))

    def _read(self) -> dict[str, str]:
        try:
            tree = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except orjson.JSONDecodeError as error:
            raise CursorsUnreadable(str(self._path), str(error)) from error
        if not isinstance(tree, dict) or not all(isinstance(value, str) for value in tree.values()):
            raise CursorsUnreadable(str(self._path), "not a map of tenants to cursors")
        return tree

    def _write(self, content: bytes) -> None:
        with self._writing:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            beside = self._path.with_name(self._path.name + ".new")
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
