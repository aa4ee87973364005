"""`POST /sync/push`: what devices did while they were offline."""

from __future__ import annotations

import zlib
from typing import Any, Final

import zstandard
from fastapi import APIRouter, Request
from fastapi.responses import Response

from hub.gateways.http.context import Asking, Hub, body, json
from schemas import strict_json
from schemas.errors import FieldError, Problem
from schemas.sync import MAX_SYNC_BYTES, PushRequest, PushResponse, SyncItem

router = APIRouter(tags=["sync"])

_GZIP: Final = 16 + zlib.MAX_WBITS


def _request_schema() -> dict[str, Any]:
    request = PushRequest.model_json_schema()
    item = SyncItem.model_json_schema(ref_template="#/components/schemas/{model}")
    request["properties"]["items"]["items"] = item
    return request


@router.post(
    "/sync/push",
    responses={200: {"description": "A result an item, in order", "model": PushResponse}},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _request_schema()}}}},
)
async def push(request: Request, hub: Hub, claims: Asking) -> Response:
    """Take a batch of operations of one device, each exactly once however often it is sent. Scope `sync`.

    The body may be compressed: `Content-Encoding: gzip` or `zstd`. The answer comes when what it calls applied is
    durable; after no answer, send the same batch again.
    """
    claims.require("sync")
    raw = await body(request, may_be_folded=True)
    content = unfolded(raw, request.headers.get("Content-Encoding", ""))
    parsed = strict_json.parse(content)
    response = await hub.syncer.push(claims, parsed)
    request.state.events = len(response.results)
    return json(response.model_dump_json(exclude_none=True).encode())


def unfolded(raw: bytes, encoding: str) -> bytes:
    """A body as it was before it was compressed, at most 2 MiB.

    Raises:
        Problem: `too_large`; `invalid_request`: another encoding, or not what it says.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return raw
    try:
        if name in ("gzip", "x-gzip"):
            content, whole = _gunzipped(raw)
        elif name == "zstd":
            content, whole = _unzstd(raw)
        else:
            said = f"{name[:40]!r} is not read here; send gzip, zstd or neither"
            raise Problem("invalid_request", f"Content-Encoding: {said}", [FieldError("Content-Encoding", said)])
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        raise _damaged(name) from error
    if len(content) > MAX_SYNC_BYTES:
        raise Problem("too_large", f"the body unfolds to more than {MAX_SYNC_BYTES} bytes; send fewer items at a time")
    if not whole:
        raise _damaged(name)
    return content


def _gunzipped(raw: bytes) -> tuple[bytes, bool]:
    unfolding = zlib.decompressobj(_GZIP)
    content = unfolding.decompress(raw, MAX_SYNC_BYTES + 1)
    return content, unfolding.eof and not unfolding.unused_data


def _unzstd(raw: bytes) -> tuple[bytes, bool]:
    unfolding = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024)
    with unfolding.stream_reader(raw) as reader:
        content = reader.read(MAX_SYNC_BYTES + 1)
    if len(content) > MAX_SYNC_BYTES:
        return content, False
    # The reader ends where its input does, whole or not. This one knows, but not where to stop.
    again = unfolding.decompressobj()
    again.decompress(raw)
    return content, again.eof and not again.unused_data


def _damaged(name: str) -> Problem:
    said = f"the body is not whole {name}; send it again"
    return Problem("invalid_request", said, [FieldError("", said)])
