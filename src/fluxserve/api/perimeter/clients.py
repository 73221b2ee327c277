"""Who counts as one client."""

from ipaddress import IPv6Address

OWN_BITS = 64  # of an IPv6 address, that are each client's to choose


def client_at(address: str) -> str:
    """The client behind `address`: the address itself, or the IPv6 network that one client has for itself."""
    if ":" not in address:
        return address
    try:
        whole = IPv6Address(address)
    except ValueError:  # what a proxy calls its client need not be an address
        return address
    return str(whole.ipv4_mapped or IPv6Address(int(whole) >> OWN_BITS << OWN_BITS))
