"""The log while its server fails: full, read-only, frozen, killed. Nothing half-written, nothing doubled."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from log_servers import T0, T1, Bench, Server, append_all, event, patiently, program, stored, until

from hub.log.stream_log import Appended, StreamLog
from hub.log.topology import Source
from schemas.errors import Problem

pytestmark = pytest.mark.server

Served = tuple[Bench, Server]


def code(result: Any) -> str:
    """What became of an append."""
    if isinstance(result, Problem):
        return result.code
    assert isinstance(result, Appended), result
    return "stored"


async def attempt(log: StreamLog, *ids: str, tenant: str = T0, pad: int = 0) -> list[str]:
    """Append events with these ids at once; what became of each."""
    futures = [log.submit(event(tenant, id=id, pad=pad)) for id in ids]
    return [code(result) for result in await asyncio.gather(*futures, return_exceptions=True)]


async def contiguous(log: StreamLog, tenant: str = T0) -> list[str]:
    """A tenant's event ids in order; their sequence must have no hole, nor any id stand twice."""
    found = await stored(log, tenant)
    assert [sequence for sequence, _ in found] == list(range(1, len(found) + 1))
    ids = [event_id for _, event_id in found]
    assert len(set(ids)) == len(ids)
    return ids


async def test_out_of_memory_stores_nothing_by_halves(served: Served) -> None:
    """A full server refuses appends as `log_unavailable`; with room again, sequences go on without a hole."""
    bench, server = served
    log = await bench.open(timeout_s=2.0)
    await attempt(log, "before")
    with server.client() as client:
        used = int(client.info("memory")["used_memory"])
        client.config_set("maxmemory", used + 3_000_000)
    outcomes: list[str] = []
    for round in range(40):
        outcomes += await attempt(log, *[f"e-{round}-{n}" for n in range(20)], pad=20_000)
    assert outcomes.count("log_unavailable") > 100
    assert set(outcomes) == {"stored", "log_unavailable"}
    assert log.last_error
    kept = await contiguous(log)
    assert len(kept) == outcomes.count("stored") + 1
    with server.client() as client:
        client.config_set("maxmemory", 0)
    assert set(await attempt(log, *[f"e-39-{n}" for n in range(20)])) == {"stored"}
    assert not log.last_error
    found = await log.find(T0, "e-39-0")
    assert found is not None
    assert set(await contiguous(log)) >= {*kept, "e-39-0"}
    heads = await log.heads([T0])
    assert heads[T0].sequence == len(await stored(log, T0))


async def test_a_read_only_replica_is_waited_for(served: Served) -> None:
    """A server that is a replica refuses appends as `log_unavailable`, and one promoted within the time takes them."""
    bench, server = served
    log = await bench.open(timeout_s=0.4)
    await attempt(log, "before")
    other = Server(program("Valkey"), durable=False)
    try:
        with server.client() as client:
            client.replicaof("127.0.0.1", other.port)
        assert await attempt(log, "e-1", "e-2") == ["log_unavailable", "log_unavailable"]
        patient = await bench_log_without_writes(bench, log)
        waiting = [patient.submit(event(id=id)) for id in ("e-2", "e-3")]
        await until(lambda: patient.last_error)
        with server.client() as client:
            client.replicaof("NO", "ONE")
        assert [code(outcome) for outcome in await asyncio.gather(*waiting)] == ["stored", "stored"]
        assert await attempt(log, "e-1") == ["stored"]
        assert await contiguous(log) == ["before", "e-2", "e-3", "e-1"]
    finally:
        other.close()


async def bench_log_without_writes(bench: Bench, like: StreamLog) -> StreamLog:
    """A patient hub's log on a server that takes no writes now."""
    log = StreamLog(bench._source(), bench.keys, like.partitions, idempotency_s=600, timeout_s=15)
    log.epochs = list(like.epochs)
    bench._open.append(log)
    return log


async def test_a_killed_server_leaves_no_double(served: Served) -> None:
    """Appends in flight when the server is killed are stored once it is back, or known to be unknown; none doubles."""
    bench, server = served
    log = await bench.open(timeout_s=10)
    await attempt(log, "before")
    waiting = [log.submit(event(id=f"e-{n}")) for n in range(600)]
    await until(waiting[0].done)
    server.kill()
    later = [log.submit(event(id=f"l-{n}")) for n in range(20)]
    server.start()
    outcomes = [code(one) for one in await asyncio.gather(*waiting, *later, return_exceptions=True)]
    assert set(outcomes) == {"stored"}
    assert await attempt(log, *[f"e-{n}" for n in range(600)]) == ["stored"] * 600
    assert await contiguous(log) == ["before", *[f"e-{n}" for n in range(600)], *[f"l-{n}" for n in range(20)]]


async def test_what_is_not_back_in_time_is_told(served: Served) -> None:
    """While no server listens appends fail in time as `log_unavailable`: nothing was sent. Retries are stored once."""
    bench, server = served
    log = await bench.open(timeout_s=0.3)
    await attempt(log, "before")
    server.kill()
    first = await attempt(log, "e-1", "e-2")
    assert set(first) <= {"log_unavailable", "outcome_unknown"}
    assert await attempt(log, "e-1", "e-2") == ["log_unavailable", "log_unavailable"]
    server.start()
    assert await attempt(log, "e-1", "e-2") == ["stored", "stored"]
    assert await contiguous(log) == ["before", "e-1", "e-2"]


async def test_a_frozen_server_makes_the_outcome_unknown(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that took the call and does not answer makes it `outcome_unknown`; the retry is not a double."""
    monkeypatch.setattr("hub.log.topology.SOCKET_TIMEOUT_S", 0.3)
    bench, server = served
    log = await bench.open(timeout_s=0.5)
    await attempt(log, "before")
    server.signal(signal.SIGSTOP)
    try:
        assert await attempt(log, "e-1", "e-2") == ["outcome_unknown", "outcome_unknown"]
    finally:
        server.signal(signal.SIGCONT)
    with server.client() as client:
        patiently(client.ping)
    results = await asyncio.gather(*[log.submit(event(id=id)) for id in ("e-1", "e-2", "e-3")])
    assert [code(one) for one in results] == ["stored"] * 3
    assert await contiguous(log) == ["before", "e-1", "e-2", "e-3"]


async def test_a_server_that_thaws_is_recovered_from(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries after a time-out find what the frozen server did carry out, and report it as new."""
    monkeypatch.setattr("hub.log.topology.SOCKET_TIMEOUT_S", 0.2)
    bench, server = served
    log = await bench.open(timeout_s=15)
    await attempt(log, "before")
    server.signal(signal.SIGSTOP)
    waiting = [log.submit(event(id=f"e-{n}")) for n in range(5)]
    await until(lambda: log.last_error)
    server.signal(signal.SIGCONT)
    outcomes = await asyncio.gather(*waiting)
    assert [(code(one), one.duplicate) for one in outcomes if isinstance(one, Appended)] == [("stored", False)] * 5
    assert await contiguous(log) == ["before", *[f"e-{n}" for n in range(5)]]


async def test_a_full_queue_is_not_waited_out_call_by_call(served: Served) -> None:
    """With the server away every publisher hears in about the time-out, however many calls wait before its own."""
    bench, server = served
    log = await bench.open(timeout_s=0.5)
    await attempt(log, "before")
    server.kill()
    begun = asyncio.get_running_loop().time()
    outcomes = await attempt(log, *[f"e-{n}" for n in range(256 * 12)])
    took = asyncio.get_running_loop().time() - begun
    assert set(outcomes) <= {"log_unavailable", "outcome_unknown"}
    assert outcomes[-1] == "log_unavailable", "it was never sent"
    assert took < 3, "twelve time-outs in a row would be six seconds"
    server.start()
    assert await attempt(log, "after") == ["stored"]
    assert await contiguous(log) == ["before", "after"]


async def test_a_restart_between_appends_is_not_noticed(served: Served) -> None:
    """A server that was restarted, and forgot the script, takes the next append."""
    bench, server = served
    log = await bench.open()
    await append_all(log, [event(), event(T1)])
    server.kill()
    server.start()
    with server.client() as client:
        client.script_flush()
    await append_all(log, [event(), event(T1)])
    assert [sequence for sequence, _ in await stored(log, T0)] == [1, 2]


async def test_a_lost_server_while_preparing_again_is_the_logs_failure(served: Served) -> None:
    """When the history was replaced and the server goes away meanwhile, publishers hear that the log is away."""
    bench, server = served
    log = await bench.open(timeout_s=0.5)
    await attempt(log, "before")
    with server.client() as client:
        client.flushall()

    async def lost() -> None:
        raise ConnectionResetError("gone again")

    log.on_lost = lost
    assert await attempt(log, "e-1") == ["log_unavailable"]


async def test_an_exhausted_pool_waits(served: Served) -> None:
    """More commands at once than the pool has connections wait for their turn."""
    bench, _ = served
    log = await bench.open()
    source: Source = log.source
    answers = await asyncio.gather(*[source.call("ECHO", str(n)) for n in range(300)])
    assert answers == [str(n).encode() for n in range(300)]
