"""Where the hub may be sent by others: URLs and IP addresses, judged so that a webhook never reaches what is inside."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

import idna

MAX_URL_CHARS: Final = 2000
_MAX_HOST_CHARS: Final = 253

_NO_IPV4: Final = tuple(
    (IPv4Network(network), why)
    for network, why in (
        ("0.0.0.0/8", "an unspecified address"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "an address shared behind a carrier's NAT"),
        ("127.0.0.0/8", "a loopback address"),
        ("169.254.0.0/16", "a link-local address"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "a reserved address"),
        ("192.0.2.0/24", "a documentation address"),
        ("192.88.99.0/24", "a reserved address"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "an address for benchmarks"),
        ("198.51.100.0/24", "a documentation address"),
        ("203.0.113.0/24", "a documentation address"),
        ("224.0.0.0/4", "a multicast address"),
        ("255.255.255.255/32", "the broadcast address"),
        ("240.0.0.0/4", "a reserved address"),
        # Looks public, but every machine of that cloud reaches its host's services there.
        ("168.63.129.16/32", "a cloud's metadata address"),
    )
)
_NO_IPV6: Final = tuple(
    (IPv6Network(network), why)
    for network, why in (
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a site-local address"),
        ("ff00::/8", "a multicast address"),
        ("2001:db8::/32", "a documentation address"),
        ("3fff::/20", "a documentation address"),
        ("2001::/23", "a reserved address"),
    )
)
_UNICAST: Final = IPv6Network("2000::/3")
# Where the last 32 bits are an IPv4 address that is reached in the end: mapped, compatible, NAT64.
_ENDS_IN_IPV4: Final = tuple(IPv6Network(network) for network in ("::ffff:0:0/96", "::/96", "64:ff9b::/96"))
_6TO4: Final = IPv6Network("2002::/16")
_TEREDO: Final = IPv6Network("2001::/32")

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_NOT_VISIBLE: Final = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\\]")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT: Final = re.compile(r"[0-9]{1,5}")


def refusal(address: str) -> str | None:
    """What an IP address is that may not be dialled, such as `a private address`; None for a public one.

    An IPv6 address that stands for an IPv4 one is judged as that. What is no address at all is refused.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return "no IP address"
    return _why_not_ipv4(parsed) if isinstance(parsed, IPv4Address) else _why_not_ipv6(parsed)


def _why_not_ipv4(address: IPv4Address) -> str | None:
    for network, why in _NO_IPV4:
        if address in network:
            return why
    return None if address.is_global else "no public address"


def _why_not_ipv6(address: IPv6Address) -> str | None:
    if address.scope_id is not None:
        return "an address of one link"
    if address.is_unspecified or address.is_loopback:
        return "an unspecified address" if address.is_unspecified else "a loopback address"
    inner = _inner_addresses(address)
    if inner:
        return next((reason for one in inner if (reason := _why_not_ipv4(one)) is not None), None)
    for network, why in _NO_IPV6:
        if address in network:
            return why
    return None if address in _UNICAST and address.is_global else "no public address"


def _inner_addresses(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that packets to an IPv6 address go to."""
    bits = int(address)
    if any(address in network for network in _ENDS_IN_IPV4):
        return (IPv4Address(bits & 0xFFFFFFFF),)
    if address in _6TO4:
        return (IPv4Address(bits >> 80 & 0xFFFFFFFF),)
    if address in _TEREDO:  # the server, and the client, whose bits are turned round
        return (IPv4Address(bits >> 64 & 0xFFFFFFFF), IPv4Address(~bits & 0xFFFFFFFF))
    return ()


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads.

    `url` is the URL as it is used: host in ASCII, path and query as given. `host` is in lower case and without
    brackets; `path` includes the query.
    """

    url: str
    scheme: str
    host: str
    port: int
    path: str

    @property
    def is_address(self) -> bool:
        """Whether the host is an IP address and no name."""
        return _is_address(self.host)


def parse_url(url: str, allow_hosts: Collection[str]) -> Target:
    """Take a URL apart that somebody wants to be called at.

    A host in `allow_hosts` (lower case, IPv6 addresses without brackets) may be called without TLS and at any address.
    A name is not looked up: its addresses must be judged by `refusal` when it is dialled.

    Raises:
        ValueError: it may not be called; the message names what is wrong and never repeats the URL.
    """
    if len(url) > MAX_URL_CHARS:
        raise ValueError(f"the URL must be at most {MAX_URL_CHARS} characters, not {len(url)}")
    if _NOT_VISIBLE.search(url):
        raise ValueError("the URL must be without spaces, control characters and backslashes; percent-encode them")
    begin = _SCHEME.match(url)
    scheme = begin[1].lower() if begin else ""
    if begin is None or scheme not in ("https", "http"):
        raise ValueError("the URL must begin with https://")
    if "#" in url:
        raise ValueError("the URL must be without a fragment (#)")
    rest = url[begin.end() :]
    end = next((at for at, char in enumerate(rest) if char in "/?"), len(rest))
    authority, path = rest[:end], rest[end:]
    if not path.isascii():
        raise ValueError("the URL's path and query must be ASCII; percent-encode the rest")
    if "@" in authority:
        raise ValueError("the URL must be without a user name and password")
    host, port = _host_and_port(authority, 443 if scheme == "https" else 80)
    if host not in allow_hosts:
        if scheme != "https":
            raise ValueError("the URL must begin with https://")
        if _is_address(host) and (why := refusal(host)) is not None:
            raise ValueError(f"the URL's host must be a public address: this is {why}")
    path = path if path.startswith("/") else f"/{path}"
    shown = f"[{host}]" if ":" in host else host
    default = port == (443 if scheme == "https" else 80)
    return Target(f"{scheme}://{shown}{'' if default else f':{port}'}{path}", scheme, host, port, path)


def _host_and_port(authority: str, default: int) -> tuple[str, int]:
    if authority.startswith("["):
        literal, closed, after = authority[1:].partition("]")
        if not closed or (after and not after.startswith(":")):
            raise ValueError("the URL's host must be an IPv6 address in brackets, such as [2001:4860:4860::8888]")
        try:
            address = IPv6Address(literal)
        except ValueError:
            raise ValueError("the URL's host in brackets must be an IPv6 address") from None
        if address.scope_id is not None:
            raise ValueError("the URL's host must be without a scope (%)")
        host = str(address)
        return host, _port(after[1:]) if after else default
    name, colon, after = authority.partition(":")
    port = _port(after) if colon else default
    return _name(name), port


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or not 1 <= int(text) <= 65535:
        raise ValueError("the URL's port must be 1 to 65535; an IPv6 address must be in brackets")
    return int(text)


def _name(name: str) -> str:
    """A host name in ASCII and lower case, or an IPv4 address in its one spelling."""
    if not name:
        raise ValueError("the URL must have a host")
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode()
        except UnicodeError:  # the error of idna is one
            raise ValueError("the URL's host is not an internationalised name (IDNA)") from None
    name = name.lower().removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # Resolvers also read 127.1, 0177.0.0.1, 0x7f000001 and 2130706433 as addresses.
        try:
            return str(IPv4Address(name))
        except ValueError:
            raise ValueError("the URL's host must be an IPv4 address of four decimal numbers, or a name") from None
    if len(name) > _MAX_HOST_CHARS or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("the URL's host must be a host name: letters, digits, hyphens and dots")
    return name


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
