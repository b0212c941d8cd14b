"""From where a request came, and how. In: its connection and headers. Out: an address, as `ipaddress` writes it.

What a header says is believed only where the peer is one of our own proxies, and then only the last entry that no
proxy of ours wrote: everything to its left the caller may have invented.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from starlette.types import Scope

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

X_FORWARDED_FOR: Final = "x-forwarded-for"
FORWARDED: Final = "forwarded"

_SCOPE = "daybook.outside"
_LONGEST = 4096
_SUBSCRIBER = 64
# RFC 7239 §4: pairs parted by ';' inside an element, elements parted by ',' and either may lie in a quoted string.
_PAIR = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^",;\s]*)\s*([,;]|$)')


@dataclass(frozen=True, slots=True)
class Proxies:
    """Whose word about a caller's address counts, and in which one header they give it. A second header, that they pass
    on unread, would be the caller's own word."""

    networks: tuple[Network, ...] = ()
    header: str = X_FORWARDED_FOR

    @classmethod
    def of(cls, networks: Iterable[str], header: str = X_FORWARDED_FOR) -> Proxies:
        """Raises `ValueError` for a network or a header that is none."""
        if header.lower() not in (X_FORWARDED_FOR, FORWARDED):
            raise ValueError(f"{header!r} is neither X-Forwarded-For nor Forwarded")
        return cls(tuple(ip_network(one) for one in networks), header.lower())

    def trust(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class Outside:
    """How callers reach this process: through which proxies, and whether over TLS, ended by us or by them."""

    proxies: Proxies = field(default_factory=Proxies)
    https: bool = False


_PLAIN = Outside()


def reached_by(scope: Scope, outside: Outside) -> None:
    """Have `client_address` and `is_https` know."""
    scope[_SCOPE] = outside


def is_https(scope: Scope) -> bool:
    """Whether callers speak TLS, as far as the settings say: never by a header, which a caller may have sent."""
    return scope.get("scheme") == "https" or _outside(scope).https


def _outside(scope: Scope) -> Outside:
    outside: Outside = scope.get(_SCOPE, _PLAIN)
    return outside


def client_address(scope: Scope) -> str:
    """The caller's address; "" where the connection has none (a Unix socket, a test)."""
    peer = scope.get("client")
    address = _parsed(peer[0]) if peer else None
    if address is None:
        return ""
    proxies = _outside(scope).proxies
    if proxies.networks and proxies.trust(address):
        for entry in _from_the_right(scope, proxies.header):
            said = _parsed(entry)
            # An entry that is no address (`unknown`, `_hidden`): the proxy that wrote it is as far as we can see.
            if said is None:
                break
            address = said
            if not proxies.trust(said):
                break
    return str(address)


def subscriber(address: str) -> str:
    """What one subscriber has to themselves: an IPv4 address, or at least a /64 of IPv6 (RFC 6177)."""
    if not address:
        return ""
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, _SUBSCRIBER), strict=False))
    return str(parsed)


def _from_the_right(scope: Scope, header: str) -> Iterator[str]:
    name = header.encode()
    line = ",".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)
    if not line or len(line) > _LONGEST:
        return iter(())
    entries = line.split(",") if header == X_FORWARDED_FOR else _fors(line)
    return reversed([entry.strip() for entry in entries])


def _fors(line: str) -> list[str]:
    """The `for` of each element, "" where it has none; nothing at all where the line is not RFC 7239."""
    found, current, place = [], "", 0
    while place < len(line):
        pair = _PAIR.match(line, place)
        if pair is None:
            return []
        if pair[1].lower() == "for":
            current = re.sub(r"\\(.)", r"\1", pair[2][1:-1]) if pair[2].startswith('"') else pair[2]
        if pair[3] != ";":
            found.append(current)
            current = ""
        place = pair.end()
    return found


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Address | None:
    """An address with or without a port, an IPv6 one with or without brackets and zone."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
