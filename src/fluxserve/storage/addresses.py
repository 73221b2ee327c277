"""Web addresses that callers name, read once and by one parser."""

import httpcore2
import httpx2

LONGEST = 8_000  # characters


class AddressError(Exception):
    """It is no address that we go to; the message says why, in words for the caller."""


def web_address(text: str) -> httpx2.URL:
    """Raises `AddressError`."""
    if len(text) > LONGEST:
        raise AddressError(f"its address has more than {LONGEST} characters")
    try:
        url = httpx2.URL(text)
        host = url.raw_host.decode("ascii")
    except (httpx2.InvalidURL, UnicodeError, ValueError) as error:
        raise AddressError(f"its address can't be read: {error}") from None
    if url.scheme not in ("http", "https") or not host:
        raise AddressError("only http and https addresses are taken")
    if url.port is not None and not 0 < url.port < 65536:
        raise AddressError(f"its address can't be read: there is no port {url.port}")
    if url.userinfo:
        raise AddressError("an address with a user name or password is not taken")
    return url


def raw(url: httpx2.URL) -> httpcore2.URL:
    """The same for a connection pool."""
    return httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
