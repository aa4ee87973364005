"""Who syncs: the tenant and the device that a request speaks for, by names that can be kept."""

from __future__ import annotations

import re
from typing import Final, Protocol

from hub.security.tokens import Claims
from schemas.errors import Problem, invalid_request
from schemas.types import HUB, SYSTEMS, TENANT_FORM

_TENANT: Final = re.compile(TENANT_FORM.removesuffix("$"))
_DEVICE: Final = re.compile(r"[!-~]{1,100}")
_TAKEN: Final = frozenset({*SYSTEMS, HUB, "*", "both", "earlier", "unknown"})
"""What versions, winners and requests name otherwise: a device of such a name would count as having seen their work."""


class Owners(Protocol):
    """Who knows whose a device is."""

    async def system_of(self, tenant_id: str, device_id: str) -> str | None:
        """The system that pushes for a device; None for one that never pushed. Raises `StoreUnavailable`."""
        ...


async def require_owner(owners: Owners, claims: Claims, tenant_id: str, device_id: str) -> None:
    """Refuse a device that is another system's.

    Raises:
        Problem: `forbidden`.
        StoreUnavailable: whose it is cannot be told now.
    """
    owner = await owners.system_of(tenant_id, device_id)
    if owner not in (None, claims.system):
        raise Problem("forbidden", f"device_id: {device_id} is a device of {owner}; use another id")


def tenant_of(claims: Claims, named: str | None, parameter: str = "tenant_id") -> str:
    """The tenant that a device works for.

    Raises:
        Problem: `forbidden`; `invalid_request`: the token holds several and none is named, or the name is none.
    """
    if named is not None:
        # A token for all tenants holds whatever is named.
        if not _TENANT.fullmatch(named):
            raise invalid_request(
                parameter, "must be the id of a tenant: 1 to 64 letters, digits, dots, dashes and underscores"
            )
        claims.require_tenant(named)
        return named
    if len(claims.tenants) == 1 and not claims.all_tenants:
        return next(iter(claims.tenants))
    raise invalid_request(parameter, "the token holds several tenants; name one")


def device_of(claims: Claims, named: str | None) -> str | None:
    """The device that asks: the one that is named, else the token's; None where neither tells.

    Raises:
        Problem: `forbidden`: the token is another device's; `invalid_request`: no device can have that name.
    """
    if named is not None:
        claims.require_device(named)
    device_id = claims.device_id if named is None else named
    if device_id is None:
        return None
    if not _DEVICE.fullmatch(device_id):
        raise invalid_request("device_id", "must be 1 to 100 visible ASCII characters, in the token, too")
    if device_id in _TAKEN or device_id == claims.system:
        raise invalid_request(
            "device_id", f"{device_id!r} is no name for a device: it has another meaning here; use another id"
        )
    return device_id
