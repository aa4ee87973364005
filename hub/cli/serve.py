"""`hub serve`: one process, or several that share the port."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import structlog
import typer

from hub import settings as hub_settings
from hub.errors import StartError
from hub.settings import Settings

# The server's own modules are imported where it starts: every other command does without them, and without the second
# they take.
if TYPE_CHECKING:
    from hub.app import Hub
    from hub.log.embedded import EmbeddedServer

log = structlog.get_logger("hub")

app = typer.Typer()

SWITCH_INTERVAL_S: Final = 0.0002


@app.command("serve")
def serve_command(
    host: Annotated[str | None, typer.Option(help="HUB_HOST")] = None,
    port: Annotated[int | None, typer.Option(help="HUB_PORT; 0 takes a free one")] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="HUB_DATA_DIR")] = None,
    workers: Annotated[int | None, typer.Option(help="HUB_WORKERS")] = None,
    redis_url: Annotated[str | None, typer.Option("--redis-url", help="HUB_REDIS_URL")] = None,
    log_level: Annotated[str | None, typer.Option("--log-level", help="HUB_LOG_LEVEL")] = None,
    log_format: Annotated[str | None, typer.Option("--log-format", help="HUB_LOG_FORMAT")] = None,
) -> None:
    """Run the hub until Ctrl-C or SIGTERM. Options stand over the settings of these names; `hub config` lists all."""
    settings = hub_settings.load(
        host=host,
        port=port,
        data_dir=data_dir,
        workers=workers,
        redis_url=redis_url,
        log_level=log_level,
        log_format=log_format,
    )
    from hub.log.topology import RedisError

    try:
        code = serve(settings)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise StartError(
            f"{error.filename or settings.data_dir}: {error.strerror}",
            "Set HUB_DATA_DIR to a directory that this user can write",
        ) from error
    except RedisError as error:
        raise StartError(f"the Redis server refused: {error}", "`hub doctor` looks at it") from error
    raise typer.Exit(code)


def run_loop(main: Callable[[asyncio.Event], Coroutine[Any, Any, int]]) -> int:
    """Run `main` with an event that SIGINT and SIGTERM set; the exit code."""

    import uvloop

    # What start-up leaves behind lives as long as the process; the collector need not look at it again, nor at every
    # few hundred of the short-lived objects of which events are made.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)

    # SQLite works in threads, and takes the interpreter's lock once a row: by default it would wait 5 ms for each while
    # the loop is busy.
    sys.setswitchinterval(SWITCH_INTERVAL_S)

    async def outer() -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        return await main(stop)

    return uvloop.run(outer())


def serve(settings: Settings, started: Callable[[Hub], None] = lambda _: None) -> int:
    """Serve until SIGINT or SIGTERM; the exit code.

    Raises:
        StartError: the hub cannot start as it is set up.
    """
    from hub.app import Hub
    from hub.telemetry import configure_logging

    configure_logging(settings.log_level, settings.log_format)
    if settings.workers > 1:
        return run_loop(lambda stop: _supervise(settings, stop))

    async def alone(stop: asyncio.Event) -> int:
        async with Hub(settings) as hub:
            started(hub)
            await stop.wait()
        return 0

    return run_loop(alone)


async def _supervise(settings: Settings, stop: asyncio.Event) -> int:
    """Own the port and the embedded server; keep the workers alive."""
    from hub.app import bind
    from hub.log.embedded import EmbeddedServer

    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.ExitStack() as stack:
        listener = bind(settings)
        stack.callback(listener.close)
        metrics_dir = settings.data_dir / "metrics"
        shutil.rmtree(metrics_dir, ignore_errors=True)
        metrics_dir.mkdir(mode=0o700)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_dir)
        server: EmbeddedServer | None = None
        url = settings.redis_url
        if url is None:
            server = EmbeddedServer(
                settings.data_dir,
                fsync=settings.embedded_fsync,
                maxmemory_mb=settings.embedded_maxmemory_mb or None,
            )
            url = await server.start()
        try:
            return await _keep_workers(settings, listener, url, stop)
        finally:
            if server is not None:
                await server.stop()


async def _keep_workers(settings: Settings, listener: socket.socket, url: str, stop: asyncio.Event) -> int:
    context = multiprocessing.get_context("spawn")
    workers: dict[int, BaseProcess] = {}

    def launch(number: int) -> None:
        process = context.Process(
            target=_work, args=(settings, listener, url, number == 0, os.getpid()), name=f"hub-worker-{number}"
        )
        process.start()
        workers[number] = process

    for number in range(settings.workers):
        launch(number)
    failures = 0
    try:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.2)
            for number, process in list(workers.items()):
                if process.is_alive() or stop.is_set():
                    continue
                failures += 1
                log.error("worker_died", worker=number, exit_code=process.exitcode, failures=failures)
                await asyncio.sleep(min(5.0, 0.1 * 2 ** min(failures, 6)))
                launch(number)
    finally:
        for process in workers.values():
            process.terminate()
        deadline = settings.drain_s + 10
        await asyncio.gather(*(asyncio.to_thread(process.join, deadline) for process in workers.values()))
        for process in workers.values():
            if process.is_alive():
                process.kill()
                await asyncio.to_thread(process.join)
    return 0


def _work(settings: Settings, listener: socket.socket, url: str, primary: bool, parent: int) -> None:
    from hub.app import Hub
    from hub.telemetry import configure_logging

    configure_logging(settings.log_level, settings.log_format)

    async def main(stop: asyncio.Event) -> int:
        async with Hub(settings, listener, redis_url=url, primary=primary):
            # A worker whose supervisor is gone has no port and no server to itself: it goes too.
            while not stop.is_set() and os.getppid() == parent:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 1.0)
        return 0

    run_loop(main)
