"""Who calls: an API key's name, or a network address. What one caller may take is bounded by that.

A network of IPv6 with 64 bits is one caller, because whoever has one address of it has all.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.types import Scope

Network = IPv4Network | IPv6Network
_FORWARDED = b"x-forwarded-for"


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return addresses and networks that are separated by commas; raises `ValueError`."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


@lru_cache(4096)
def address_of(host: str) -> str:
    """Return an IPv4 address as it is, of an IPv6 address its first 64 bits, any other text as it is."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return str(ip_network((int(address) >> 64 << 64, 64)))
        address = address.ipv4_mapped
    return str(address)


@lru_cache(4096)
def is_within(host: str, networks: Sequence[Network]) -> bool:
    """Whether a host is an address of one of the networks."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def caller_of(proxies: Sequence[Network]) -> Callable[[Scope], str]:
    """Return what names the caller of a request: a key's name, else an address.

    Behind one of `proxies` that is the last address in `X-Forwarded-For` that is no proxy's: what stands
    before it the caller may have made up.
    """

    def caller(scope: Scope) -> str:
        if name := scope.get("state", {}).get("api_key_name"):
            return f"key {name}"
        host = (scope.get("client") or ("", 0))[0]
        if proxies and is_within(host, proxies):
            lines = [value.decode("latin-1") for name, value in scope["headers"] if name == _FORWARDED]
            for forwarded in reversed(",".join(lines).split(",")):
                host = forwarded.strip() or host
                if not is_within(host, proxies):
                    break
        return address_of(host[:100])

    return caller
