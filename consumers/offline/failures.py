"""What a desk does about a failure (R85). Pure.

Link down: offline mode. The hub fails (5xx) or does not answer in time: three more attempts. The token expired: the
operator's PIN, then silent re-authentication and a differential sync. The local database does not write: more
attempts, then a rebuild is proposed; it is damaged: check, salvage and rebuild. What no attempt can help goes to a
person.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

from consumers.errors import AccessRefused, Disconnected, HubRefused
from consumers.offline.errors import LocalDamaged, LocalFull, LocalInUse, LocalUnusable
from schemas.frames import Close

Kind = Literal[
    "link_down",
    "hub_failed",
    "token_expired",
    "forbidden",
    "refused",
    "write_failed",
    "disk_full",
    "damaged",
    "in_use",
    "unsettled",
    "unexpected",
]
"""The class of a failure. `unsettled`: all went well, and yet it is not as it should be."""
Action = Literal["go_offline", "retry", "ask_pin", "propose_rebuild", "rebuild", "make_room", "escalate"]
"""What to do: `escalate` and `make_room` wait for a person, `propose_rebuild` for a person's word."""

RETRIES: Final = 3
"""Attempts after the first, where nothing else is said (R51, R85)."""

_EXPIRED: Final = frozenset({401, Close.TOKEN_EXPIRED, Close.BAD_TOKEN, Close.NO_AUTH})
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_RETRIED: Final[Mapping[Kind, Action]] = MappingProxyType(
    {"hub_failed": "escalate", "write_failed": "propose_rebuild", "unsettled": "escalate", "unexpected": "escalate"}
)
"""What is tried again, and what comes after the last attempt."""
_AT_ONCE: Final[Mapping[Kind, Action]] = MappingProxyType(
    {
        "link_down": "go_offline",
        "token_expired": "ask_pin",
        "forbidden": "escalate",
        "refused": "escalate",
        "disk_full": "make_room",
        "damaged": "rebuild",
        "in_use": "escalate",
    }
)


def kind_of(error: BaseException) -> Kind:
    """The class of what was raised."""
    match error:
        case Disconnected(code=Close.TOKEN_EXPIRED):
            return "token_expired"
        case Disconnected():
            # Who may have heard us and did not answer may be slow or failing; whether the line holds, a probe tells.
            return "hub_failed" if error.sent else "link_down"
        case TimeoutError():
            return "hub_failed"
        case AccessRefused():
            return "token_expired" if error.code in _EXPIRED else "forbidden"
        case HubRefused(code="token_expired" | "unauthorized"):
            return "token_expired"
        case HubRefused(code="forbidden" | "not_authority"):
            return "forbidden"
        case HubRefused():
            return "hub_failed" if error.retryable else "refused"
        case LocalFull():
            return "disk_full"
        case LocalDamaged():
            return "damaged"
        case LocalInUse():
            return "in_use"
        case LocalUnusable() | sqlite3.Error():
            return "write_failed"
        case ConnectionError():
            return "link_down"
        case OSError():
            return "disk_full" if error.errno in _NO_ROOM else "write_failed"
        case _:
            return "unexpected"


def action_of(kind: Kind, failures: int, retries: int = RETRIES) -> Action:
    """What to do after failure number `failures` (1 the first) of something that may be retried `retries` times."""
    after_last = _RETRIED.get(kind)
    if after_last is None:
        return _AT_ONCE[kind]
    return "retry" if failures <= retries else after_last
