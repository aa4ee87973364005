"""Which hub a client command talks to, and as whom."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from hub import settings as hub_settings
from hub.cli.failure import CommandError, UsageError
from hub.security.tokens import ALL, Tokens, own_key
from hub.settings import Settings
from schemas.types import HUB

LIFETIME_S: Final = 900.0
"""How long a token that a command signs for itself lasts."""

SCOPES: Final = ("publish:*", "subscribe:*", "ops", "admin")

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="HUB_URL", help="The hub's address; by default this machine's HUB_PORT"),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token", envvar="HUB_TOKEN", help="A token; by default one signed with the hub's own key", show_default=False
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where the hub keeps its key, HUB_DATA_DIR by default"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON")]


@dataclass(frozen=True, slots=True)
class Access:
    """A hub's address and the right to use it. `tokens` signs where no token was given."""

    url: str
    given: str | None
    tokens: Tokens | None

    @property
    def signs(self) -> bool:
        """Whether tokens are made here, as many and for whom they are needed."""
        return self.given is None

    @property
    def on_this_machine(self) -> bool:
        """Whether the hub is asked over the loopback interface."""
        return _loopback(urlsplit(self.url).hostname or "")

    def token(
        self, system: str = HUB, tenants: Iterable[str] = (ALL,), scopes: Iterable[str] = SCOPES, *, life_s: float = 0
    ) -> str:
        """The token that was given, else a fresh one of this system."""
        if self.given is not None:
            return self.given
        assert self.tokens is not None
        return self.tokens.issue(system, tenants, scopes, subject="hub-cli", lifetime_s=life_s or LIFETIME_S)


def key_file(data_dir: Path) -> Path:
    """Where the hub's own key lies."""
    return data_dir / "keys" / "hub.pem"


def load_settings(data_dir: Path | None = None) -> Settings:
    """The settings as a client of the hub on this machine reads them."""
    return hub_settings.load(data_dir=data_dir)


def own_tokens(data_dir: Path) -> Tokens:
    """What signs with the hub's own key, which must be there.

    Raises:
        CommandError: there is no key, or this user may not read it.
    """
    path = key_file(data_dir)
    try:
        if path.exists():
            return Tokens([own_key(data_dir)])
    except OSError as error:
        raise CommandError(
            f"the hub's key {path} cannot be read: {error.strerror}", "Run as the hub's user, or give --token"
        ) from error
    raise CommandError(
        f"there is no token, and no key of a hub in {path}",
        "Give --token or HUB_TOKEN (`hub token` makes one on the hub's machine), or set HUB_DATA_DIR to the hub's data",
    )


def access(url: str | None, token: str | None, data_dir: Path | None = None, *, system: str | None = None) -> Access:
    """Settle the address and the credential.

    Raises:
        CommandError, StartError: neither a token nor a key is there, or the settings are wrong.
        UsageError: the address is no HTTP URL, or a system is asked for that the token decides.
    """
    settings = load_settings(data_dir)
    address = _address(url, settings)
    if token:
        if system is not None:
            raise UsageError("--system is for tokens signed here; the one given names its own", "Leave out one of them")
        return Access(address, token.strip(), None)
    host = urlsplit(address).hostname or ""
    if url and not _loopback(host) and host != settings.host:
        # A token of the hub's own key opens everything: it does not leave for an address somebody typed.
        raise CommandError(f"{address} is another machine and there is no token", "Give --token or HUB_TOKEN")
    return Access(address, None, own_tokens(settings.data_dir))


def _address(url: str | None, settings: Settings) -> str:
    if not url:
        if settings.port == 0:
            raise CommandError("HUB_PORT is 0, so the hub's port is not known", "Give --url or HUB_URL")
        host = settings.host
        if host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
            host = "127.0.0.1"
        return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises when it is none
    except ValueError as error:
        raise UsageError(f"--url {url}: {error}", "Write it like http://127.0.0.1:3400") from None
    scheme = {"http": "http", "https": "https", "ws": "http", "wss": "https"}.get(parts.scheme)
    if scheme is None or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        raise UsageError(f"--url {url} is not the address of a hub", "Write it like http://127.0.0.1:3400")
    path = parts.path.rstrip("/")
    return f"{scheme}://{parts.netloc}{path.removesuffix('/ws') if parts.scheme.startswith('ws') else path}"


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
