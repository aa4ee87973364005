"""The store as the hub holds it: its parts over one database, and whether it can be used now."""

from __future__ import annotations

import structlog

from hub.store.archive import Archive
from hub.store.database import Database, StoreUnavailable, StoreVersionError
from hub.store.entities import Entities
from hub.store.facts import Facts
from hub.store.leases import Leases
from hub.store.ledger import Ledger
from hub.store.migrate import migrate
from hub.store.properties import Properties
from hub.store.replays import Replays
from hub.store.runs import Runs
from hub.store.sync_conflicts import SyncConflicts
from hub.store.sync_devices import SyncDevices
from hub.store.sync_items import SyncItems
from hub.store.webhook_queue import WebhookQueue
from hub.store.webhooks import Webhooks

log = structlog.get_logger("hub.store")


class Store:
    """Owned by the composition root, which awaits `aclose`."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.archive = Archive(database)
        self.entities = Entities(database)
        self.ledger = Ledger(database)
        self.replays = Replays(database)
        self.properties = Properties(database)
        self.leases = Leases(database)
        self.facts = Facts(database)
        self.runs = Runs(database)
        self.webhooks = Webhooks(database)
        self.webhook_queue = WebhookQueue(database)
        self.sync_items = SyncItems(database)
        self.sync_devices = SyncDevices(database)
        self.sync_conflicts = SyncConflicts(database)
        self.ok = False
        """Whether the last thing asked of it was done."""
        self.detail = "not opened yet"
        self._migrated = False
        self._refuses = False
        """The last write failed: it may answer, and be full."""

    @property
    def opened(self) -> bool:
        """Whether it has this release's version."""
        return self._migrated

    async def open(self) -> None:
        """Bring the database to this release's version, unless this was done.

        Raises:
            StoreUnavailable: it is not reached now.
            StoreVersionError: it was written by a newer release.
        """
        if self._migrated:
            return
        try:
            await migrate(self.database)
        except StoreVersionError as error:
            self.ok, self.detail = False, str(error)
            raise
        except StoreUnavailable as error:
            self.failed(error)
            raise
        self._migrated = True
        self.works()

    def works(self, *, written: bool = False) -> None:
        """Note that it answered. After a write that failed, only one that was done shows that it takes events again."""
        self._refuses = self._refuses and not written
        if self._refuses:
            return
        if not self.ok:
            log.info("store_open", url=self.database.shown)
        self.ok, self.detail = True, "open"

    def failed(self, error: StoreUnavailable, *, writing: bool = False) -> None:
        """Note that it did not."""
        self._refuses = self._refuses or writing
        if self.ok or self.detail != str(error):
            log.warning("store_unavailable", url=self.database.shown, error=str(error))
        self.ok, self.detail = False, str(error)

    async def aclose(self) -> None:
        """Close the database."""
        await self.database.aclose()
