"""WebSocket subscribers that resume after what they have, and judge what comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from .ledger import Observation, Seen

_RETRY_S: Final = 0.05
_OPEN_S: Final = 15.0
_ACK_EVERY: Final = 20


class Subscriber:
    """Subscribes to everything of some tenants.

    Without a `name` it resumes by its own cursors, and must get each event once; with one it acknowledges, resumes
    where the hub holds it to be, and may get again what it acknowledged last. On either, sequences must continue
    without a hole from wherever a connection starts, which is never beyond what it has.
    """

    def __init__(self, label: str, url: str, token: str, tenants: Sequence[str], name: str | None = None) -> None:
        self.seen: list[Seen] = []
        self.ids: set[str] = set()
        self.skips = 0
        self.gaps = 0
        self.connections = 0
        self.acknowledged: dict[str, int] = {}
        """By tenant, the last sequence it acknowledged."""
        self._label = label
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._tenants = list(tenants)
        self._name = name
        self._last = dict.fromkeys(tenants, 0)
        self._cursors: dict[str, str] = {}
        self._unacked = 0

    def observation(self) -> Observation:
        """What it saw."""
        return Observation(self._label, self._name is None, self.seen, self.skips, self.gaps)

    async def run(self) -> None:
        """Subscribe again and again, until cancelled."""
        while True:
            try:
                async with connect(
                    self._url,
                    additional_headers=self._headers,
                    open_timeout=_OPEN_S,
                    ping_interval=None,
                    max_queue=256,
                ) as socket:
                    self.connections += 1
                    await self._follow(socket)
            except (OSError, WebSocketException, TimeoutError):
                await asyncio.sleep(_RETRY_S)

    async def _follow(self, socket: ClientConnection) -> None:
        subscribe: dict[str, Any] = {"op": "subscribe", "id": 1, "patterns": ["*"], "tenants": self._tenants}
        if self._name is None and self._cursors:
            subscribe["after"] = self._cursors
        else:
            # For a name this counts the first time only; later the hub's position does.
            subscribe |= {"after": "earliest"} | ({} if self._name is None else {"name": self._name})
        await socket.send(json.dumps(subscribe))
        here: dict[str, int] = {}
        self._unacked = 0
        async for text in socket:
            frame = json.loads(text)
            if frame["op"] == "event":
                self._take(frame, here)
                if self._name is not None:
                    await self._acknowledge(socket, frame)
            elif frame["op"] == "subscribed":
                self._cursors = frame["position"] | self._cursors
            elif frame["op"] == "gap":
                self.gaps += 1
                self._cursors[frame["tenant_id"]] = frame["resume_from"]
                here.pop(frame["tenant_id"], None)
            elif frame["op"] == "error":
                if not frame["retryable"]:
                    raise AssertionError(f"{self._label} was refused: {frame}")
                return

    def _take(self, frame: dict[str, Any], here: dict[str, int]) -> None:
        event, sequence = frame["event"], frame["sequence"]
        tenant = event["tenant_id"]
        last = self._last[tenant]
        before = here.get(tenant)
        if before is not None:
            self.skips += sequence != before + 1
        elif sequence > last + 1:
            self.skips += 1
        here[tenant] = sequence
        self._last[tenant] = max(last, sequence)
        self._cursors[tenant] = frame["cursor"]
        self.seen.append(
            Seen(event["event_id"], tenant, event["data"]["reservation_id"], event["data"]["total_amount"])
        )
        self.ids.add(event["event_id"])

    async def _acknowledge(self, socket: ClientConnection, frame: dict[str, Any]) -> None:
        self._unacked += 1
        if self._unacked >= _ACK_EVERY:
            self._unacked = 0
            self.acknowledged = dict(self._last)
            await socket.send(json.dumps({"op": "ack", "cursors": self._cursors}))
