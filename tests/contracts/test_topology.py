"""The log on Sentinel and on a cluster, and the URLs that lead to them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from log_servers import GROUPS, T0, T1, Bench, Server, append_all, event, patiently, program, remote, stored, until
from prometheus_client import CollectorRegistry

from hub.core.routing import Audience, Interest
from hub.errors import StartError
from hub.log import groups
from hub.log.dead_letters import DeadLetters
from hub.log.positions import Positions
from hub.log.setup import check_server, new_epoch
from hub.log.stream_log import Appended, StreamLog
from hub.log.topology import connect
from hub.services.dispatcher import Dispatcher, Position
from hub.telemetry import Metrics
from schemas.cursor import ZERO, Cursor

pytestmark = pytest.mark.server


class Listener:
    """A member of a fan-out group that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[tuple[str, int]] = []

    def deliver(self, buffer: bytes, events: Any, before: Position) -> bool:
        """Take everything."""
        self.got += [(entry.tenant_id, entry.sequence) for entry in events]
        return True


EVERYTHING = Audience(frozenset({Interest(None, frozenset({"*"}))}), "hub")


def dispatcher_on(log: StreamLog, bench: Bench) -> Dispatcher:
    """A dispatcher that prepares the log again as the hub does."""
    return Dispatcher(log, Metrics(CollectorRegistry()), reopen=lambda: bench.reopen(log))


# Sentinel


class Watched:
    """A primary with a replica, watched by one Sentinel."""

    def __init__(self, binary: Path) -> None:
        self.primary, self.replica = Server(binary), Server(binary)
        self.sentinel = Server(binary, durable=False)
        config = self.sentinel.directory / "sentinel.conf"
        config.write_text(
            f"sentinel monitor hotel 127.0.0.1 {self.primary.port} 1\n"
            "sentinel down-after-milliseconds hotel 300\n"
            "sentinel failover-timeout hotel 2000\n"
        )
        self.sentinel.run_as([str(binary), str(config), "--sentinel"])

    def start(self) -> None:
        """Start all and wait until the Sentinel knows the replica."""
        self.primary.start()
        self.replica.start()
        with self.replica.client() as client:
            client.replicaof("127.0.0.1", self.primary.port)
            patiently(lambda: client.info("replication")["master_link_status"] == "up")
        self.sentinel.start()
        with self.sentinel.client() as client:
            patiently(lambda: len(client.execute_command("SENTINEL", "REPLICAS", "hotel")) == 1)

    @property
    def url(self) -> str:
        """Where a hub finds it."""
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/hotel"

    def close(self) -> None:
        """End all."""
        for server in (self.sentinel, self.primary, self.replica):
            server.close()


@pytest.fixture
def watched() -> Iterator[Watched]:
    """A fresh primary, replica and Sentinel."""
    made = Watched(program("Valkey"))
    try:
        made.start()
        yield made
    finally:
        made.close()


async def test_a_failover_under_sentinel_is_survived(watched: Watched) -> None:
    """Appends go to the primary; when it dies they wait for the replica's promotion, and readers follow."""
    bench = Bench(remote(watched.url), "s")
    log = await bench.open(timeout_s=20)
    assert not log.source.cluster
    assert log.source.shown == watched.url
    dispatcher, listener = dispatcher_on(log, bench), Listener()
    await dispatcher.start()
    dispatcher.fanout.join(listener, EVERYTHING)
    try:
        await append_all(log, [event(n=n) for n in range(10)])
        await until(lambda: len(listener.got) == 10)
        with watched.primary.client() as client:
            assert client.execute_command("WAIT", 1, 5000) == 1
            assert client.xlen(log.keys.events(log.partition(T0))) == 10
            offset = client.info("replication")["master_repl_offset"]
        with watched.replica.client() as client:
            patiently(lambda: client.info("replication")["slave_repl_offset"] >= offset)
        watched.primary.kill()
        outcomes = await asyncio.gather(*[log.submit(event(id=f"e-{n}")) for n in range(10)])
        assert [one.sequence for one in outcomes if isinstance(one, Appended)] == list(range(11, 21))
        assert [sequence for sequence, _ in await stored(log, T0)] == list(range(1, 21))
        await until(lambda: len(listener.got) == 20)
        assert listener.got == [(T0, sequence) for sequence in range(1, 21)]
    finally:
        await dispatcher.stop()
        await bench.close()


# Cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Three nodes that share the slots; the URL of one."""
    binary = program("Valkey")
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no"]
    nodes = [Server(binary, *options) for _ in range(3)]
    try:
        for number, node in enumerate(nodes):
            node.start()
            with node.client() as client:
                first, last = number * 16384 // 3, (number + 1) * 16384 // 3 - 1
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        with nodes[0].client() as client:
            for node in nodes[1:]:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
        for node in nodes:
            with node.client() as client:
                patiently(partial(_up, client, 3))
        yield f"redis+cluster://127.0.0.1:{nodes[0].port}"
    finally:
        for node in nodes:
            node.close()


def _up(client: Any, ranges: int) -> bool:
    state = client.execute_command("CLUSTER INFO")["cluster_state"]
    return state == "ok" and len(client.execute_command("CLUSTER SLOTS")) == ranges


async def test_a_cluster_takes_the_whole_log(cluster: str) -> None:
    """Opening, appending, reading, positions, groups, trimming and dead letters work over several nodes."""
    bench = Bench(remote(cluster), "c")
    log = await bench.open(8)
    try:
        assert log.source.cluster
        tenants = [f"tenant-{n}" for n in range(12)]
        receipts = await append_all(log, [event(tenant, n=n) for n in range(5) for tenant in tenants])
        for tenant in tenants:
            assert [sequence for sequence, _ in await stored(log, tenant)] == [1, 2, 3, 4, 5]
        again = await append_all(await bench.open(8), [event("tenant-0", id="e-1"), event("tenant-0", id="e-1")])
        assert [one.duplicate for one in again] == [False, True]
        heads = await log.tenants()
        assert heads["tenant-0"].sequence == 6
        (start,) = await log.resolve({"tenant-0": Cursor.decode(receipts[12].cursor)})
        assert (start.head.sequence, start.gap) == (2, None)
        found = await log.find("tenant-0", "e-1")
        assert found is not None

        positions = Positions(log)
        await positions.begin("pms", "sync", {"tenant-0": receipts[0].cursor})
        positions.move("pms", "sync", "tenant-0", receipts[12].cursor)
        await positions.aclose()
        assert (await Positions(log).get("pms", "sync", ["tenant-0"]))["tenant-0"].sequence == 2

        states = await groups.group_states(log, 1 << 45)
        assert len(states) == 8 * len(GROUPS)
        partition = log.partition("tenant-0")
        key = log.keys.events(partition)
        count = len(await log.read(partition, ZERO, 1000))
        for group in GROUPS:
            await log.source.client.execute_command(
                "XREADGROUP", "GROUP", group, "c", "COUNT", 1000, "STREAMS", key, ">"
            )
            entries = await log.source.client.execute_command("XRANGE", key, "-", "+")
            await log.source.client.xack(key, group, *[id for id, _ in entries])
        assert await groups.trim(log, 1 << 45, 1 << 45, GROUPS) == count

        dead = DeadLetters(log, GROUPS)
        fields = ["event_type", "room", "tenant_id", "tenant-0", "reason", "boom", "attempts", "5"]
        await log.source.client.execute_command("XADD", log.keys.dead(partition, GROUPS[0]), "*", *fields)
        (letter,) = await dead.listed(GROUPS[0], 10)
        assert set(await dead.groups()) == set(GROUPS)
        assert len(await dead.redrive(GROUPS[0], [letter.id])) == 1
        assert await dead.discard(GROUPS[0], [letter.id]) == 0
        before = log.epochs[0]
        await new_epoch(log.source, log, 0)
        assert log.epochs[0] != before
    finally:
        await bench.close()


async def test_a_clusters_events_are_dispatched(cluster: str) -> None:
    """One dispatcher follows every partition, wherever it lies, in order per tenant."""
    bench = Bench(remote(cluster), "d")
    log = await bench.open(8)
    dispatcher, listener = dispatcher_on(log, bench), Listener()
    await dispatcher.start()
    dispatcher.fanout.join(listener, EVERYTHING)
    try:
        tenants = [f"tenant-{n}" for n in range(12)]
        assert len({log.partition(tenant) for tenant in tenants}) > 4
        await append_all(log, [event(tenant) for _ in range(20) for tenant in tenants])
        await until(lambda: len(listener.got) == 240)
        for tenant in tenants:
            assert [number for name, number in listener.got if name == tenant] == list(range(1, 21))
    finally:
        await dispatcher.stop()
        await bench.close()


async def test_a_cluster_that_is_away_is_an_outage_not_the_end() -> None:
    """While no node answers appends are refused as unavailable and the dispatcher keeps trying; then both go on."""
    node = Server(program("Valkey"), "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
    try:
        node.start()
        with node.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            patiently(lambda: _up(client, 1))
        bench = Bench(remote(f"redis+cluster://127.0.0.1:{node.port}"), "a")
        log = await bench.open(timeout_s=0.5)
        dispatcher, listener = dispatcher_on(log, bench), Listener()
        await dispatcher.start()
        dispatcher.fanout.join(listener, EVERYTHING)
        try:
            await append_all(log, [event(), event(T1)])
            await until(lambda: len(listener.got) == 2)
            node.kill()
            await until(lambda: not dispatcher.connected)
            refused = await asyncio.gather(log.submit(event()), return_exceptions=True)
            assert getattr(refused[0], "code", refused[0]) in ("log_unavailable", "outcome_unknown")
            node.start()
            await until(lambda: dispatcher.connected)

            async def stored_again() -> bool:
                found = await asyncio.gather(log.submit(event(id="e-1")), return_exceptions=True)
                return isinstance(found[0], Appended)

            await until(stored_again)
            await until(lambda: len(listener.got) >= 3)
        finally:
            await dispatcher.stop()
            await bench.close()
    finally:
        node.close()


# URLs


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://localhost", "unknown scheme"),
        ("localhost:6379", "unknown scheme"),
        ("redis+sentinel://localhost:26379", "names its service"),
        ("redis+sentinel://localhost:x/hotel", "cannot be read"),
        ("redis://localhost:port", "cannot be read"),
    ],
)
def test_a_wrong_url_is_refused(url: str, told: str) -> None:
    """A URL of no known kind is refused at start, naming the setting and the fix."""
    with pytest.raises(StartError) as refused:
        connect(url)
    assert told in refused.value.message
    assert "HUB_REDIS_URL" in refused.value.message
    assert refused.value.fix


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:geheim@127.0.0.1:1/0",
        "rediss://:geheim@127.0.0.1:1/0",
        "redis://127.0.0.1:1/0?password=geheim",
        "redis+sentinel://user:geheim@127.0.0.1:1/hotel",
        "redis+cluster://:geheim@127.0.0.1:1",
        "redis://:gehe/geheim@127.0.0.1:x/0",
    ],
)
async def test_credentials_are_never_shown(url: str) -> None:
    """What is logged of a URL, and the error of a server that cannot be reached, leave its credentials out."""
    try:
        source = connect(url)
    except StartError as error:
        assert "geheim" not in str(error)  # noqa: PT017
        return
    assert "geheim" not in source.shown
    with pytest.raises(StartError) as refused:
        await check_server(source)
    assert "geheim" not in str(refused.value)
    assert "127.0.0.1:1" in refused.value.message
    await source.aclose()
