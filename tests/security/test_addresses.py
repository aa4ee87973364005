"""Addresses and URLs that others give: what is inside is never accepted, in no spelling."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.security.addresses import parse_url, refusal

INSIDE = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
INSIDE_6 = [
    IPv6Network(network)
    for network in (
        "100::/64",
        "64:ff9b:1::/48",
        "2001:db8::/32",
        "2001:10::/28",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
]
inside = st.sampled_from(INSIDE).flatmap(
    lambda network: st.integers(int(network.network_address), int(network.broadcast_address)).map(IPv4Address)
)
inside_6 = st.sampled_from(INSIDE_6).flatmap(
    lambda network: st.integers(int(network.network_address), int(network.broadcast_address)).map(IPv6Address)
)
public = st.sampled_from(
    [IPv4Network(network) for network in ("1.0.0.0/8", "8.0.0.0/8", "93.184.0.0/16", "172.32.0.0/11", "192.1.0.0/16")]
).flatmap(lambda network: st.integers(int(network.network_address), int(network.broadcast_address)).map(IPv4Address))


def forms(address: IPv4Address) -> list[IPv6Address]:
    """Every IPv6 address that leads to an IPv4 one: mapped, compatible, NAT64, 6to4, Teredo server and client."""
    bits, elsewhere = int(address), int(IPv4Address("8.8.8.8"))
    return [
        IPv6Address((0xFFFF << 32) | bits),
        IPv6Address(bits),
        IPv6Address((0x64FF9B << 96) | bits),
        IPv6Address((0x2002 << 112) | (bits << 80) | 1),
        IPv6Address((0x20010000 << 96) | (bits << 64) | (elsewhere ^ 0xFFFFFFFF)),
        IPv6Address((0x20010000 << 96) | (elsewhere << 64) | (bits ^ 0xFFFFFFFF)),
    ]


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1", "loopback"),
        ("10.1.2.3", "private"),
        ("172.31.255.255", "private"),
        ("192.168.0.1", "private"),
        ("169.254.169.254", "link-local"),
        ("100.64.0.1", "carrier"),
        ("100.100.100.200", "carrier"),
        ("168.63.129.16", "metadata"),
        ("224.0.0.1", "multicast"),
        ("240.0.0.1", "reserved"),
        ("192.88.99.1", "reserved"),
        ("0.0.0.0", "unspecified"),
        ("255.255.255.255", "broadcast"),
        ("203.0.113.9", "documentation"),
        ("198.18.0.1", "benchmarks"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("fd00:ec2::254", "private"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "one link"),
        ("2606:4700::1%1", "one link"),
        ("fec0::1", "site-local"),
        ("ff02::1", "multicast"),
        ("2001:db8::1", "documentation"),
        ("2001:2::1", "reserved"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:a9fe:a9fe", "link-local"),
        ("::127.0.0.1", "loopback"),
        ("::ffff:0:127.0.0.1", "no public"),
        ("64:ff9b::10.0.0.1", "private"),
        ("64:ff9b:1::8.8.8.8", "no public"),
        ("2002:7f00:1::", "loopback"),
        ("2001:0:7f00:1::", "loopback"),
        ("4000::1", "no public"),
        ("hub.example", "no IP address"),
        ("", "no IP address"),
        ("127.1", "no IP address"),
        ("0177.0.0.1", "no IP address"),
        ("8.8.8.8 ", "no IP address"),
    ],
)
def test_the_reason_of_a_refusal_is_named(address: str, why: str) -> None:
    """Each kind of address that is not public is refused and called what it is."""
    assert why in (refusal(address) or "")


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "169.253.255.255",
        "172.15.255.255",
        "172.32.0.0",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "64:ff9b::8.8.8.8",
        "::ffff:8.8.8.8",
        "2002:808:808::1",
    ],
)
def test_public_addresses_are_good(address: str) -> None:
    """Public addresses, also right beside the others and behind NAT64, may be dialled."""
    assert refusal(address) is None


@given(inside)
def test_an_inner_address_is_refused_in_every_form(address: IPv4Address) -> None:
    """An IPv4 address of the inside is refused itself and as any IPv6 address that leads to it."""
    assert refusal(str(address)) is not None
    for form in forms(address):
        assert refusal(str(form)) is not None, form
        assert refusal(form.exploded) is not None, form


@given(inside_6)
def test_an_inner_ipv6_address_is_refused(address: IPv6Address) -> None:
    """IPv6 addresses that are not global unicast are refused."""
    assert refusal(str(address)) is not None


@given(public)
def test_a_public_address_is_good_in_every_form(address: IPv4Address) -> None:
    """A public IPv4 address is good itself and as any IPv6 address that leads to it."""
    assert refusal(str(address)) is None
    for form in forms(address):
        assert refusal(str(form)) is None, form


@given(st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address))
def test_what_is_good_is_global(address: IPv4Address | IPv6Address) -> None:
    """Nothing is good that the standard library knows to be anything but public."""
    if refusal(str(address)) is None:
        inner = None
        if isinstance(address, IPv6Address):
            teredo = address.teredo
            inner = address.ipv4_mapped or address.sixtofour or (teredo and teredo[1])
        judged = inner or address
        nat64 = isinstance(judged, IPv6Address) and judged in IPv6Network("64:ff9b::/96")
        assert judged.is_global or nat64
        assert not judged.is_multicast
        assert not judged.is_private or nat64


@pytest.mark.parametrize(
    ("url", "used", "host", "port", "path"),
    [
        ("https://hooks.example", "https://hooks.example/", "hooks.example", 443, "/"),
        (
            "HTTPS://Hooks.Example:443/a/B?c=%20",
            "https://hooks.example/a/B?c=%20",
            "hooks.example",
            443,
            "/a/B?c=%20",
        ),
        ("https://hooks.example.:8443?x", "https://hooks.example:8443/?x", "hooks.example", 8443, "/?x"),
        ("https://bücher.example/ok", "https://xn--bcher-kva.example/ok", "xn--bcher-kva.example", 443, "/ok"),
        ("https://8.8.8.8:1/", "https://8.8.8.8:1/", "8.8.8.8", 1, "/"),
        ("https://[2606:4700::0001]/", "https://[2606:4700::1]/", "2606:4700::1", 443, "/"),
        ("https://[2606:4700::1]:65535/x", "https://[2606:4700::1]:65535/x", "2606:4700::1", 65535, "/x"),
        ("https://a_b.example/", "https://a_b.example/", "a_b.example", 443, "/"),
        ("https://hooks.example/@me:1", "https://hooks.example/@me:1", "hooks.example", 443, "/@me:1"),
        ("https://10.example/", "https://10.example/", "10.example", 443, "/"),
        ("https://8.8.8.8/", "https://8.8.8.8/", "8.8.8.8", 443, "/"),
        ("https://８.8.8.8/", "https://8.8.8.8/", "8.8.8.8", 443, "/"),
    ],
)
def test_a_good_url_is_taken_apart(url: str, used: str, host: str, port: int, path: str) -> None:
    """A URL has its scheme, its host in one spelling, its port, and path and query as they are sent."""
    target = parse_url(url, ())
    assert (target.url, target.scheme, target.host, target.port, target.path) == (used, "https", host, port, path)
    assert parse_url(target.url, ()) == target


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("", "begin with https://"),
        ("hooks.example/x", "begin with https://"),
        ("//hooks.example/x", "begin with https://"),
        ("https:/hooks.example/x", "begin with https://"),
        ("http://hooks.example/x", "begin with https://"),
        ("ftp://hooks.example/x", "begin with https://"),
        ("file:///etc/passwd", "begin with https://"),
        ("gopher://hooks.example/", "begin with https://"),
        ("https://", "have a host"),
        ("https:///x", "have a host"),
        ("https://:443/x", "have a host"),
        ("https://user:geheim@hooks.example/", "user name"),
        ("https://@hooks.example/", "user name"),
        ("https://8.8.8.8@127.0.0.1/", "user name"),
        ("https://hooks.example/#part", "fragment"),
        ("https://hooks.example#@127.0.0.1/", "fragment"),
        ("https://hooks.example:0/", "port"),
        ("https://hooks.example:65536/", "port"),
        ("https://hooks.example:/", "port"),
        ("https://hooks.example:8o/", "port"),
        ("https://hooks.example:-1/", "port"),
        ("https://hooks.example:１/", "port"),
        ("https://hooks.example:443:443/", "port"),
        ("https://2606:4700::1/", "brackets"),
        ("https://[2606:4700::1/", "brackets"),
        ("https://[2606:4700::1]x/", "brackets"),
        ("https://[8.8.8.8]/", "brackets"),
        ("https://[hooks.example]/", "brackets"),
        ("https://[fe80::1%eth0]/", "scope"),
        ("https://[fe80::1%25eth0]/", "scope"),
        ("https://hooks.example/a b", "spaces"),
        (" https://hooks.example/", "spaces"),
        ("https://hooks.example/\n", "spaces"),
        ("https://hooks.example/\r\nHost: x", "spaces"),
        ("https://hooks\t.example/", "spaces"),
        ("https://hooks.example/\x00", "spaces"),
        ("https://hooks.example/\x7f", "spaces"),
        ("https://hooks.example\\@127.0.0.1/", "backslashes"),
        ("https://hooks.example/é", "percent-encode"),
        ("https://hooks.example/" + "a" * 2000, "2000 characters"),
        ("https://" + "a" * 64 + ".example/", "host name"),
        ("https://" + "a." * 130 + "example/", "host name"),
        ("https://hooks..example/", "host name"),
        ("https://.example/", "host name"),
        ("https://./", "host name"),
        ("https://-a.example/", "host name"),
        ("https://%31%32%37.0.0.1/", "IPv4"),
        ("https://hooks%2eexample/", "host name"),
        ("https://hooks.example,evil.example/", "host name"),
        ("https://\u3000.example/", "IDNA"),
        ("https://a\u200d.example/", "IDNA"),
        ("https://0x7f000001/", "IPv4"),
        ("https://2130706433/", "IPv4"),
        ("https://0177.0.0.1/", "IPv4"),
        ("https://127.1/", "IPv4"),
        ("https://127.0.0.0x1/", "IPv4"),
        ("https://0x7f.0.0.0x1/", "IPv4"),
        ("https://127.0.0.1.1/", "IPv4"),
        ("https://256.0.0.1/", "IPv4"),
        ("https://hooks.1/", "IPv4"),
        ("https://hooks.0x/", "IPv4"),
        ("https://127.0.0.1/", "loopback"),
        ("https://127.0.0.1./", "loopback"),
        ("https://１２７.0.0.1/", "loopback"),
        ("https://127。0。0。1/", "loopback"),
        ("https://169.254.169.254/latest/meta-data", "link-local"),
        ("https://[::1]/", "loopback"),
        ("https://[::ffff:127.0.0.1]/", "loopback"),
        ("https://[0:0:0:0:0:ffff:7f00:1]/", "loopback"),
    ],
)
def test_a_url_that_may_not_be_called_is_refused(url: str, wrong: str) -> None:
    """Each slip and each trick in a URL is named, and credentials are not repeated."""
    with pytest.raises(ValueError, match=wrong) as caught:
        parse_url(url, ())
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8080/x", "https://127.0.0.1/x", "http://localhost/x", "http://[::1]:80/", "http://[0::1]/"],
)
def test_an_allowed_host_may_be_inside_and_without_tls(url: str) -> None:
    """A host of the settings may be called with http and at any address."""
    allowed = ("127.0.0.1", "localhost", "::1")
    assert parse_url(url, allowed).host in allowed
    with pytest.raises(ValueError):
        parse_url(url.replace("https", "http"), ())


def test_an_allowed_host_does_not_allow_another() -> None:
    """What is allowed is one host, and neither its sub-domains nor its address's neighbours."""
    for url in ("http://a.localhost/", "https://127.0.0.2/", "http://localhost.example/", "ftp://localhost/"):
        with pytest.raises(ValueError):
            parse_url(url, ("localhost", "127.0.0.1"))


@given(inside, st.sampled_from(["https://{}/", "https://{}:8443/x", "https://{}.?a=b"]))
def test_no_url_leads_to_an_inner_address(address: IPv4Address, form: str) -> None:
    """No spelling of an inner address is a good URL."""
    bits, parts = int(address), str(address).split(".")
    spellings = [str(address), str(bits), hex(bits), ".".join(hex(int(part)) for part in parts)]
    spellings += [".".join(f"0{int(part):o}" for part in parts), f"{parts[0]}.{bits & 0xFFFFFF}"]
    spellings += [f"[{one}]" for one in forms(address)]
    for spelling in spellings:
        with pytest.raises(ValueError):
            parse_url(form.format(spelling), ())


@given(st.text(max_size=80) | st.text(":/?#[]@%.\\0123456789abcdefx", max_size=40).map("https://".__add__))
def test_any_text_is_good_or_refused_and_good_stays_good(text: str) -> None:
    """No text brings about another error, and the URL that is used means the same again."""
    try:
        target = parse_url(text, ())
    except ValueError:
        return
    assert parse_url(target.url, ()) == target
    assert target.url.isascii()
