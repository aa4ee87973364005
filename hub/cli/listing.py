"""How commands list what the hub keeps: a table for people, one JSON object a line for programs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from hub.cli.access import Access
from hub.cli.output import compact, line, note, table
from hub.cli.remote import Remote

PAGE: Final = 500
"""Asked for at once."""


def show_listing(
    reached: Access,
    path: str,
    query: Mapping[str, Any],
    limit: int,
    columns: Sequence[str],
    row: Callable[[Mapping[str, Any]], Sequence[Any]],
    *,
    json: bool,
    right: Iterable[str] = (),
    name: str | None = None,
    noun: str | None = None,
) -> None:
    """Print up to `limit` entries of the listing at `path`, and say on stderr when there are more.

    `name`: under which key the answer has them (else the path), `noun`: what they are called (else the name).

    Raises:
        Unreachable, Refused: see `Remote`.
    """
    name = name or path

    async def ask() -> tuple[list[dict[str, Any]], bool]:
        async with Remote(reached) as remote:
            return await remote.listed(path, name, limit, PAGE, query)

    found, more = asyncio.run(ask())
    if json:
        for one in found:
            line(compact(one))
    else:
        table(columns, [row(one) for one in found], right=right)
    if more:
        note(f"{len(found)} {noun or name}; there are more: raise --limit")
