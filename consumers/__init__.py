"""The SDK: `HubClient` for a system that reaches the hub over the network, `StreamConsumer` for one beside Redis."""

from consumers.client import HubClient
from consumers.cursors import CursorStore, FileCursors, MemoryCursors
from consumers.errors import (
    AccessRefused,
    ClientClosed,
    ConsumerError,
    CursorsUnreadable,
    HandlerFailed,
    OutcomeUnknown,
    PublishError,
    PublishFailed,
    PublishRefused,
    SubscriptionRefused,
    UnreadableEvent,
)
from consumers.handlers import Handlers
from consumers.replay_run import ReplayResult
from consumers.replayed import replay_id
from consumers.stream_consumer import StreamConsumer
from schemas.frames import Gap, Receipt, Snapshot

__all__ = [
    "AccessRefused",
    "ClientClosed",
    "ConsumerError",
    "CursorStore",
    "CursorsUnreadable",
    "FileCursors",
    "Gap",
    "HandlerFailed",
    "Handlers",
    "HubClient",
    "MemoryCursors",
    "OutcomeUnknown",
    "PublishError",
    "PublishFailed",
    "PublishRefused",
    "Receipt",
    "ReplayResult",
    "Snapshot",
    "StreamConsumer",
    "SubscriptionRefused",
    "UnreadableEvent",
    "replay_id",
]
