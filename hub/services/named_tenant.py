"""The tenant that a question is about, as it is described."""

from __future__ import annotations

from hub.log.tenants import Tenant, Tenants
from hub.security.tokens import Claims
from schemas.errors import Problem, invalid_request


async def named_tenant(tenants: Tenants, claims: Claims, named: str | None) -> Tenant:
    """The tenant that is named, else the only one of the token.

    Raises:
        Problem: `invalid_request`: the token holds several and none is named; `forbidden`; `not_found`.
    """
    if named is None:
        if claims.all_tenants or len(claims.tenants) != 1:
            raise invalid_request("tenant", "is missing: the token holds several; name one")
        named = next(iter(claims.tenants))
    claims.require_tenant(named)
    for tenant, _ in await tenants.listed():
        if tenant.tenant_id == named:
            return tenant
    raise Problem("not_found", f"there is no tenant {named}: it has no events and was never described")
