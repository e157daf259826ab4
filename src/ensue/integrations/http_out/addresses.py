"""Which network addresses may be called on behalf of somebody else.

Decides by the address alone, without I/O. Leaves finding a name's addresses to `transport`. Invariant: what is not
plainly a public host of the internet is refused, also when it is wrapped in another form of address; only what the app
names in its own settings is an exception.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# Said here and not left to `is_global`, whose tables change with the version of Python.
_REFUSED: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "this host"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by a provider's customers"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local, where clouds keep their metadata"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "for documentation"),
    ("192.31.196.0/24", "reserved"),
    ("192.52.193.0/24", "reserved"),
    ("192.88.99.0/24", "a relay of 6to4"),
    ("192.168.0.0/16", "private"),
    ("192.175.48.0/24", "reserved"),
    ("198.18.0.0/15", "for measurements"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/96", "unspecified, loopback, or an IPv4 address in an old form"),
    ("64:ff9b:1::/48", "a local translation of IPv4"),
    ("100::/64", "discarded"),
    ("2001::/23", "reserved, Teredo among it"),
    ("2001:db8::/32", "for documentation"),
    ("2002::/16", "6to4"),
    ("3fff::/20", "for documentation"),
    ("5f00::/16", "reserved"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
)
REFUSED: tuple[tuple[Network, str], ...] = tuple((ipaddress.ip_network(text), why) for text, why in _REFUSED)
_INTERNET6 = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Which addresses may be called: public ones, and those in `allowed`.

    >>> AddressPolicy().refusal(ipaddress.ip_address("::ffff:127.0.0.1"))
    'loopback'
    """

    allowed: tuple[Network, ...] = ()

    @classmethod
    def of(cls, networks: Iterable[str]) -> AddressPolicy:
        """With these networks allowed. Raises ValueError for what is none."""
        return cls(tuple(ipaddress.ip_network(text) for text in networks))

    def refusal(self, address: Address) -> str | None:
        """Why `address` may not be called; None if it may."""
        inner = _inner(address)
        if any(inner in network for network in self.allowed if network.version == inner.version):
            return None
        for network, why in REFUSED:
            if network.version == inner.version and inner in network:
                return why
        if isinstance(inner, ipaddress.IPv6Address):
            if inner.scope_id is not None:
                return "of one network interface"
            return None if inner in _INTERNET6 else "outside of what is given to the internet"
        return None


def _inner(address: Address) -> Address:
    """The address that is really called: of one that stands for an IPv4 address, that one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(address.packed[-4:])
    return address
