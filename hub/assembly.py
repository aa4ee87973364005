"""Puts together what works beside the log: webhooks, reports, sync. Part of the composition root."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from hub.core.calendar import next_due
from hub.core.entry import Entry
from hub.log.tenants import Tenants
from hub.services.announcer import Announcer
from hub.services.conflict_desk import ConflictDesk
from hub.services.devices import DeviceDesk
from hub.services.dispatcher import Dispatcher
from hub.services.fact_keeper import FactKeeper
from hub.services.guarded_dialling import LookUps
from hub.services.history import History
from hub.services.integrity import LEASE as INTEGRITY
from hub.services.integrity import IntegrityJob
from hub.services.integrity_checks import IntegrityChecks
from hub.services.integrity_requests import IntegrityRequests
from hub.services.leadership import Leadership
from hub.services.ledger import Recorder
from hub.services.occupied_rooms import OccupiedRooms
from hub.services.publisher import Publisher, Systems
from hub.services.report_deliveries import ReportDeliveries
from hub.services.report_maker import ReportMaker
from hub.services.report_requests import ReportRequests
from hub.services.scheduler import LEASE as SCHEDULER
from hub.services.scheduler import Scheduler, own_jobs
from hub.services.sync_reading import SyncReading
from hub.services.sync_records import SyncRecords
from hub.services.sync_settling import SyncSettling
from hub.services.syncer import Syncer
from hub.services.webhook_attempts import Attempts
from hub.services.webhook_desk import WebhookDesk
from hub.services.webhook_intake import Intake
from hub.services.webhook_sender import WebhookSender
from hub.services.webhooks import WebhookService
from hub.settings import Settings
from hub.telemetry import Metrics


@dataclass(frozen=True, slots=True)
class Sync:
    """What serves devices that work offline."""

    syncer: Syncer
    reading: SyncReading
    devices: DeviceDesk
    conflicts: ConflictDesk


class Assembly:
    """Builds parts over what the hub has; what runs is started here, and stopped by the hub's stack."""

    def __init__(
        self,
        settings: Settings,
        stack: AsyncExitStack,
        primary: bool,
        history: History,
        tenants: Tenants,
        dispatcher: Dispatcher,
        publisher: Publisher,
        recorder: Recorder,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._stack = stack
        self._primary = primary
        self._history = history
        self._store = history.store
        self._tenants = tenants
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._publisher = publisher
        self._metrics = metrics
        self._announcer = Announcer(publisher, history)

    def webhooks(self) -> tuple[WebhookDesk, WebhookService]:
        """What manages webhook endpoints, and, on one hub at a time, what sends to them."""
        settings = self._settings
        look_ups = LookUps()
        sender = WebhookSender(settings.webhook_allow_hosts, timeout_s=settings.webhook_timeout_s, resolve=look_ups)
        self._stack.push_async_callback(sender.aclose)

        def batch_due(entry: Entry) -> int:
            tenant = self._tenants.get(entry.tenant_id)
            return next_due(settings.batch_cron, tenant.zone, entry.timestamp_ms)

        service = WebhookService(
            self._history,
            self._metrics,
            lambda endpoints, served, offer: Intake(
                self._history,
                self._dispatcher,
                self._store.webhook_queue,
                endpoints,
                served,
                offer,
                batch_due,
                now_ms=service.now_ms,
                delivered=self._store.ledger.known,
            ),
            lambda journal: Attempts(
                self._history,
                sender,
                journal,
                self._recorder,
                self._announcer,
                self._metrics,
                settings.webhook_schedule,
            ),
        )
        if self._primary and "webhooks" in settings.roles:
            leadership = Leadership(self._store, "webhooks", self._recorder.hub, service.work)
            leadership.start()
            self._stack.push_async_callback(leadership.stop)
        desk = WebhookDesk(
            self._history,
            sender,
            look_ups,
            systems=settings.systems,
            allow_hosts=settings.webhook_allow_hosts,
            changed=service.changed,
        )
        return desk, service

    def reports(self, systems: Systems) -> tuple[ReportRequests, IntegrityRequests]:
        """What makes reports and comparisons when somebody asks, and, on one hub at a time, when they are due."""
        settings = self._settings

        def calendar_of(tenant_id: str) -> tuple[str, int]:
            tenant = self._tenants.get(tenant_id)
            return tenant.timezone, tenant.rollover_hour

        maker = ReportMaker(self._history, self._announcer, FactKeeper(self._store, calendar_of))
        scheduler = Scheduler(
            self._store,
            self._tenants,
            maker,
            ReportDeliveries(self._history, self._announcer, outstanding_s=settings.outstanding_s),
            self._metrics,
            own_jobs({name: (job.cron, job.report) for name, job in settings.jobs.items()}),
            catch_up_days=settings.catch_up_days,
            keep_days=settings.archive_days,
        )
        comparing = IntegrityJob(
            self._store,
            self._tenants,
            IntegrityChecks(self._store, maker),
            self._announcer,
            self._metrics,
            keep_days=settings.archive_days,
        )
        if self._primary and "scheduler" in settings.roles:
            for lease, work in ((SCHEDULER, scheduler.work), (INTEGRITY, comparing.work)):
                leadership = Leadership(self._store, lease, self._recorder.hub, work)
                leadership.start()
                self._stack.push_async_callback(leadership.stop)
        integrity = IntegrityRequests(self._store, self._tenants, comparing)
        self._stack.push_async_callback(integrity.stop)
        return ReportRequests(self._store.runs, maker, self._tenants, systems, self._metrics), integrity

    async def sync(self, systems: Systems) -> Sync:
        """What takes pushes, answers pulls, and looks after devices and conflicts."""
        store = self._store
        devices = DeviceDesk(
            store.sync_devices,
            self._history,
            self._announcer,
            items=store.sync_items,
            recovered=self._metrics.offline_recovery_seconds.observe,
            keep_days=self._settings.ledger_days,
            archive_days=self._settings.archive_days,
        )
        devices.start()
        self._stack.push_async_callback(devices.stop)
        records = SyncRecords(self._history)
        settling = SyncSettling(self._history, self._publisher, records, store.sync_items, OccupiedRooms(self._history))
        conflicts = ConflictDesk(
            store.sync_conflicts, records, self._history, self._announcer, systems, self._metrics, devices.wake
        )
        syncer = Syncer(
            self._history,
            settling,
            records,
            store.sync_items,
            devices,
            self._announcer,
            self._metrics,
            finish=conflicts.finish,
            zone=lambda tenant_id: self._tenants.get(tenant_id).zone,
        )
        return Sync(syncer, SyncReading(self._history, devices, self._metrics), devices, conflicts)
