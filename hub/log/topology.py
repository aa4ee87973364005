"""How the hub reaches its Redis: one server, Sentinel or Cluster, by URL.

redis-py's own retries are off everywhere: a retried XADD would be a duplicate and a retried XREADGROUP strands entries;
the log retries by event id, the readers by position.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import hiredis
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from hub.errors import StartError

SOCKET_TIMEOUT_S: Final = 5.0
READ_BLOCK_MS: Final = 2000
"""BLOCK of a stream read: well under the socket timeout, or every idle read becomes a reconnect."""


class NotSentError(Exception):
    """No connection could be had: the command did not reach the server."""


@dataclass(slots=True)
class Source:
    """Access to one Redis deployment."""

    client: Any
    """`Redis` or `RedisCluster`; replies undecoded, RESP2, stream replies as the server sent them."""
    cluster: bool
    shown: str
    """The URL without credentials."""
    sentinels: Sequence[Any] = ()
    """Clients of the Sentinels that know the primary."""
    _idle: list[Any] = field(default_factory=list)

    async def call(self, *command: Any) -> Any:
        """One command, tried once.

        Raises:
            NotSentError: it certainly did not run.
            RedisError, OSError: it may have run, unless the server's answer says otherwise (`ResponseError`).
        """
        if self.cluster:
            return await self.client.execute_command(*command)
        connection = await self._connection()
        try:
            async with asyncio.timeout(SOCKET_TIMEOUT_S):
                # Packed in C: redis-py would encode each of a batch's thousands of arguments in Python.
                await connection.send_packed_command([hiredis.pack_command(command)], check_health=False)
                reply = await connection.read_response()
        except ResponseError:
            self._idle.append(connection)
            raise
        except TimeoutError as error:
            await connection.disconnect(nowait=True)
            raise RedisTimeoutError(f"no answer within {SOCKET_TIMEOUT_S:g} s") from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)
        return reply

    async def _connection(self) -> Any:
        """A connection for a single command. Kept apart from the pool, whose locks and timers cost more than a read."""
        while self._idle:
            connection = self._idle.pop()
            # One that the server has closed since must not count as a command that may have run.
            if connection.is_connected and not connection._reader.at_eof():
                return connection
            await connection.disconnect(nowait=True)
        connection = self.client.connection_pool.make_connection()
        try:
            await connection.connect()
        except (RedisError, OSError) as error:
            raise NotSentError(str(error)) from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        # `call` limits the whole exchange; redis-py would make a task of every write to limit that.
        connection.socket_timeout = None
        return connection

    async def aclose(self) -> None:
        """Close every connection."""
        while self._idle:
            await self._idle.pop().disconnect()
        await self.client.aclose()
        for sentinel in self.sentinels:
            await sentinel.aclose()
        if not self.cluster:
            # The client does not own the pool it was given.
            await self.client.connection_pool.disconnect(inuse_connections=True)


class _Cluster(RedisCluster):
    """A cluster whose being away is an outage like any other: redis-py's own error for it is no `RedisError`."""

    async def initialize(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().initialize(*args, **kwargs)
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().execute_command(*args, **kwargs)
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error


def connect(url: str, *, max_connections: int = 32) -> Source:
    """Set up access to the deployment at `url`; nothing is dialled yet.

    Understands redis://, rediss://, unix://, redis+sentinel://host:port,host:port/service[/db] and
    redis+cluster://host:port.

    Raises:
        StartError: the URL is none of these.
    """
    parts = urlsplit(url)
    options: dict[str, Any] = {
        "protocol": 2,
        "decode_responses": False,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": SOCKET_TIMEOUT_S,
        "socket_keepalive": True,
        "health_check_interval": 0,
    }
    once = Retry(NoBackoff(), 0)
    shown = without_credentials(url)
    try:
        if parts.scheme in ("redis", "rediss", "unix"):
            if parts.scheme == "unix":
                options.pop("socket_keepalive")
            pool = BlockingConnectionPool.from_url(
                url, max_connections=max_connections, timeout=2, retry=once, **options
            )
            return Source(_raw_streams(Redis(connection_pool=pool)), False, shown)
        if parts.scheme == "redis+sentinel":
            client, sentinels = _sentinel(url, options, once, max_connections)
            return Source(_raw_streams(client), False, shown, sentinels)
        if parts.scheme == "redis+cluster":
            plain = url.replace("redis+cluster", "redis", 1)
            options.pop("health_check_interval")
            return Source(_raw_streams(_Cluster.from_url(plain, retry=once, **options)), True, shown)
    except ValueError as error:
        # urllib quotes what it takes for the port, which is part of a password that holds a slash.
        reason = "" if str(error).startswith("Port could not") else f": {error}"
        raise StartError(
            f"HUB_REDIS_URL {shown} cannot be read{reason}",
            "Write it like redis://host:6379/0, with / @ : in a password as %2F %40 %3A",
        ) from error
    raise StartError(
        f"HUB_REDIS_URL has the unknown scheme {parts.scheme!r}",
        "Use redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://",
    )


def without_credentials(url: str) -> str:
    """The URL as it may be shown: without user, password and options."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def _sentinel(url: str, options: dict[str, Any], retry: Retry, max_connections: int) -> tuple[Any, Sequence[Any]]:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    pieces = [piece for piece in parts.path.split("/") if piece]
    if not pieces:
        raise ValueError("a Sentinel URL names its service: redis+sentinel://host:26379/mymaster")
    addresses = []
    for host in hosts.split(","):
        name, _, port = host.partition(":")
        addresses.append((name, int(port or 26379)))
    if credentials:
        user, _, password = credentials.partition(":")
        options = options | {"username": unquote(user) or None, "password": unquote(password) or None}
    asked = {"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": SOCKET_TIMEOUT_S, "retry": retry}
    sentinel: Any = Sentinel(addresses, sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
    db = int(pieces[1]) if len(pieces) > 1 else 0
    primary = sentinel.master_for(pieces[0], db=db, retry=retry, max_connections=max_connections, **options)
    return primary, sentinel.sentinels


def _raw_streams(client: Any) -> Any:
    """Stop redis-py from building dicts of stream replies: the log reads them as the server sends them."""
    for command in ("XREAD", "XREADGROUP", "XRANGE", "XREVRANGE"):
        client.set_response_callback(command, lambda reply, **_: reply)
    return client


__all__ = ["NotSentError", "RedisConnectionError", "RedisError", "Source", "connect"]
