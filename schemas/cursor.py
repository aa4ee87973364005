"""Cursors: a tenant's position in its event history.

A cursor names the last event seen: the epoch of the partition's history, the tenant, the tenant's `sequence` and the
stream id. All of it is needed to resume without a silent hole: the sequence shows an expired tail, the id a tail that a
failover lost, the epoch a history that was replaced. To clients the string is opaque; it is URL-safe and, within one
tenant and epoch, sorts as text in the order of events.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple
from zlib import crc32

from schemas.errors import Problem

_FORM: Final = re.compile(r"1[0-9a-f]{50}")
_SEPARATOR: Final = "."


class StreamId(NamedTuple):
    """A Redis stream entry id."""

    ms: int
    n: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.n}"

    @property
    def previous(self) -> StreamId:
        """A place right before: no entry lies between."""
        return StreamId(self.ms, self.n - 1) if self.n else StreamId(self.ms - 1, (1 << 24) - 1)

    @property
    def next(self) -> StreamId:
        """The first place after."""
        return StreamId(self.ms, self.n + 1)

    @classmethod
    def parse(cls, text: str | bytes) -> StreamId:
        """`<ms>-<n>`, as Redis writes it."""
        ms, _, n = (text.decode() if isinstance(text, bytes) else text).partition("-")
        return cls(int(ms), int(n or 0))


ZERO: Final = StreamId(0, 0)


class Cursor(NamedTuple):
    """The position just after one event of one tenant; `sequence` 0 is the position before its first."""

    epoch: int
    tenant: int
    sequence: int
    id: StreamId

    @classmethod
    def of(cls, epoch: int, tenant_id: str, sequence: int, id: StreamId) -> Cursor:
        """The cursor of the event of `tenant_id` with this `sequence`."""
        return cls(epoch, tenant_mark(tenant_id), sequence, id)

    def encode(self) -> str:
        """The opaque form."""
        epoch, tenant, sequence, (ms, n) = self
        check = (epoch + tenant * 3 + sequence * 31 + ms * 7 + n * 13) % 251
        return f"1{epoch:08x}{tenant:08x}{sequence:012x}{ms:012x}{n:08x}{check:02x}"

    @classmethod
    def decode(cls, text: str, tenant_id: str | None = None) -> Cursor:
        """Read the opaque form, and hold it against the tenant it is used for.

        Raises:
            Problem: `invalid_cursor`, when it is malformed or another tenant's.
        """
        if not isinstance(text, str) or not _FORM.fullmatch(text):
            raise Problem("invalid_cursor", "the cursor is malformed; use one exactly as the hub gave it")
        cursor = cls(
            int(text[1:9], 16),
            int(text[9:17], 16),
            int(text[17:29], 16),
            StreamId(int(text[29:41], 16), int(text[41:49], 16)),
        )
        if cursor.encode() != text:
            raise Problem("invalid_cursor", "the cursor is damaged; use one exactly as the hub gave it")
        if tenant_id is not None and cursor.tenant != tenant_mark(tenant_id):
            raise Problem("invalid_cursor", f"the cursor belongs to another tenant than {tenant_id}")
        return cursor


@lru_cache(maxsize=4096)
def tenant_mark(tenant_id: str) -> int:
    """The tenant as a cursor carries it."""
    return crc32(tenant_id.encode())


def join(cursors: list[str]) -> str:
    """One cursor for a listing over several tenants: theirs, each still marked with its tenant."""
    return _SEPARATOR.join(cursors)


def split(text: str, tenants: list[str]) -> dict[str, Cursor]:
    """Tell a cursor of one or several tenants apart by the tenants' marks.

    Raises:
        Problem: `invalid_cursor`, when a part is malformed or belongs to none of `tenants`.
    """
    by_mark = {tenant_mark(tenant): tenant for tenant in tenants}
    found: dict[str, Cursor] = {}
    for part in text.split(_SEPARATOR):
        cursor = Cursor.decode(part)
        if cursor.tenant not in by_mark:
            raise Problem("invalid_cursor", "the cursor belongs to another tenant")
        found[by_mark[cursor.tenant]] = cursor
    return found
