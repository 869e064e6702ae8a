"""
Where the gateway may post to: never into its own network, unless a setting says so.

A URL is checked when it is saved, for what can be seen in it. What counts is the check
when a connection is made: the name is resolved once, every address it has is checked,
and the connection goes to one of exactly those (`GuardedTransport`). A name that resolves
to something else a moment later, and numbers in unusual spellings, gain nothing.
Redirects are not followed.

WEBHOOK_ALLOW_PRIVATE=true allows private and loopback addresses; networks
(`10.0.0.0/8, 169.254.0.0/16`) allow what they contain, whatever it is. Addresses of
cloud metadata are link-local: only a network that contains them lets them through.

Source for which addresses embed others: RFC 4291, 6052, 3056, 4380; for those that are
not global: the IANA special-purpose registries, as Python's `ipaddress` has them.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools
import httpx
from django.conf import settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.ip_network("::/96")
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)\.?$")
_LOCAL_NAMES = (".local", ".localhost", ".internal", ".home.arpa")


class RefusedAddress(ValueError):
    """We do not post there; the message says why and what would allow it."""


# -- when a URL is saved -------------------------------------------------------------


def check_url(url: str) -> None:
    """Refuse what can be seen to be wrong without asking a name server. Raises: RefusedAddress."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise RefusedAddress("This is no web address: write https://host/path.") from None
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\\\x00-\x1f]", url):
        raise RefusedAddress("Write a web address: https://host/path.")
    if parts.username is not None or parts.password is not None:
        raise RefusedAddress("Leave out user and password: the signature tells the receiver who posts.")
    if parts.fragment:
        raise RefusedAddress("Leave out what follows #: it is never sent.")
    address = literal(host)
    if address is not None:
        check_address(address, host)
    elif _NUMBER.search(host.rsplit(".", 1)[-1] if not host.endswith(".") else host[:-1].rsplit(".", 1)[-1]):
        # inet_aton reads 2130706433, 0x7f.1 and 127.1 as addresses, and so do some resolvers.
        raise RefusedAddress(f"{host} is a number in an unusual spelling: write a name, or a plain address.")
    elif _is_local_name(host) and not _allowed().private:
        raise RefusedAddress(f"{host} is a name of this machine or network. {_HOW_TO_ALLOW}")


def literal(host: str) -> Address | None:
    """Return the address that a host is, in its usual spelling; None where it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_local_name(host: str) -> bool:
    name = "." + host.rstrip(".").lower()
    return name.endswith(_LOCAL_NAMES) or name.count(".") == 1  # `localhost`, `redis`


# -- addresses -------------------------------------------------------------------------


_HOW_TO_ALLOW = "Set WEBHOOK_ALLOW_PRIVATE to allow it."


class _Allowed:
    """What WEBHOOK_ALLOW_PRIVATE says."""

    def __init__(self, said: Iterable[str]) -> None:
        words = [word.lower() for word in said]
        self.private = any(word in _YES for word in words)
        self.networks: list[Network] = [
            ipaddress.ip_network(word, strict=False) for word in words if word not in (*_YES, *_NO)
        ]

    def has(self, address: Address) -> bool:
        if any(address in network for network in self.networks if network.version == address.version):
            return True
        return self.private and (address.is_loopback or _is_private(address))


_YES, _NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_PRIVATE: list[Network] = [
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
]


def _is_private(address: Address) -> bool:
    return any(address in network for network in _PRIVATE if network.version == address.version)


def _allowed() -> _Allowed:
    return read_allowed(tuple(settings.WEBHOOK_ALLOW_PRIVATE))


@cache
def read_allowed(said: tuple[str, ...]) -> _Allowed:
    """Return what the setting allows. Raises: ValueError on what is no network."""
    return _Allowed(said)


def check_address(address: Address, host: str) -> None:
    """Refuse an address that is not on the public network, or embeds one. Raises: RefusedAddress."""
    for each in (address, *embedded(address)):
        if not _allowed().has(each) and not is_public(each):
            shown = host if host == str(address) else f"{host} ({address})"
            raise RefusedAddress(f"{shown} is {_kind(each)}, where webhooks are not posted. {_HOW_TO_ALLOW}")


def is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id or address.is_site_local or address in _LOCAL_NAT64:
            return False
        if embedded(address):
            return True  # decided by what it embeds
    return address.is_global and not address.is_multicast and not address.is_reserved


def embedded(address: Address) -> list[ipaddress.IPv4Address]:
    """Return the IPv4 addresses that an IPv6 address leads to."""
    if not isinstance(address, ipaddress.IPv6Address):
        return []
    found = [each for each in (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())) if each]
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return found


def _kind(address: Address) -> str:
    if address.is_unspecified:
        return "the address of every interface of this machine"
    if address.is_loopback:
        return "an address of this machine"
    if address.is_link_local:
        return "a link-local address (cloud metadata lives there)"
    if _is_private(address):
        return "a private address"
    return "no address of the public network"


# -- when a connection is made ---------------------------------------------------------


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a name, all of them checked. Raises: RefusedAddress, OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    for text in addresses:
        check_address(ipaddress.ip_address(text), host)
    return addresses


_Where = tuple[str, str, int]  # scheme, host, port


class GuardedTransport(httpx.AsyncBaseTransport):
    """Posts to addresses that were checked, and to nothing else. No proxy, no redirects, no decoding.

    Small on purpose: HTTP/1.1, connections that are kept, answers read up to `MAX_ANSWER_BYTES`.
    Optimization: a post takes a fifth of the CPU that httpx's own transport takes.
    """

    def __init__(self, *, max_connections: int) -> None:
        self._max_idle = max_connections
        self._idle: dict[_Where, list[_Connection]] = {}
        self._all: set[_Connection] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises: RefusedAddress; httpx.TimeoutException, ConnectError, NetworkError, RemoteProtocolError."""
        url = request.url
        where = (url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80))
        head = _head_of(request)
        body = await request.aread()
        limits = request.extensions.get("timeout") or {}
        answer = None
        if (connection := self._kept(where)) is not None:
            answer = await self._exchange(where, connection, head + body, limits)
        if answer is None:
            # Also where the one that was kept was closed meanwhile: nothing was read of it yet.
            connection = await self._connect(where, limits)
            answer = await self._exchange(where, connection, head + body, limits)
        if answer is None:
            raise httpx.RemoteProtocolError("the connection was closed without an answer")
        return httpx.Response(answer.status, headers=answer.headers, stream=httpx.ByteStream(answer.body))

    async def _exchange(
        self, where: _Where, connection: "_Connection", message: bytes, limits: Mapping[str, float | None]
    ) -> "_Answer | None":
        """Return the answer, or None where the connection was closed before there was any of it."""
        try:
            async with asyncio.timeout(limits.get("read")):
                return await connection.exchange(message)
        except _ClosedWhileIdle:
            return None
        except TimeoutError as error:
            raise httpx.ReadTimeout("no answer in time") from error
        finally:
            self._put_back(where, connection)

    def _kept(self, where: _Where) -> "_Connection | None":
        idle = self._idle.get(where, [])
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                return connection
            self._all.discard(connection)
        return None

    def _put_back(self, where: _Where, connection: "_Connection") -> None:
        idle = self._idle.setdefault(where, [])
        if connection.is_usable and len(idle) < self._max_idle:
            idle.append(connection)
        else:
            connection.close()
            self._all.discard(connection)

    async def _connect(self, where: _Where, limits: Mapping[str, float | None]) -> "_Connection":
        try:
            async with asyncio.timeout(limits.get("connect")):
                return await self._connect_to_checked(where)
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection in time") from error

    async def _connect_to_checked(self, where: _Where) -> "_Connection":
        scheme, host, port = where
        try:
            addresses = await resolve(host, port)
        except OSError as error:
            raise httpx.ConnectError(f"{host} cannot be resolved: {error.strerror}") from error
        problem: Exception = OSError("it has no address")
        for address in addresses:
            try:
                connection = await _connection(address, port, _tls() if scheme == "https" else None, host)
            except OSError as error:  # TLS's errors are among them
                problem = error
                continue
            self._all.add(connection)
            return connection
        raise httpx.ConnectError(f"{host} cannot be connected to: {problem}") from problem

    async def aclose(self) -> None:
        for connection in self._all:
            connection.close()
        self._idle.clear()
        self._all.clear()


MAX_ANSWER_BYTES = 8192  # that are kept; a longer answer costs its connection


class _ClosedWhileIdle(Exception):
    """The other side closed a connection before it answered anything."""


class _Answer(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


async def _connection(address: str, port: int, tls: ssl.SSLContext | None, host: str) -> "_Connection":
    loop = asyncio.get_running_loop()
    server_name = host if tls is not None else None
    _, protocol = await loop.create_connection(
        _Connection, address, port, ssl=tls, server_hostname=server_name
    )
    return protocol


class _Connection(asyncio.Protocol):
    """One connection, one exchange at a time. What httptools calls is at the end."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[_Answer] | None = None
        self._is_open = False
        self._begin()

    @property
    def is_usable(self) -> bool:
        return self._is_open and self._waiting is None

    async def exchange(self, message: bytes) -> _Answer:
        """Send a request and return its answer. Cancelling closes the connection."""
        assert self._transport is not None
        self._begin()
        self._waiting = asyncio.get_running_loop().create_future()
        if not self._is_open:
            self._waiting = None
            raise _ClosedWhileIdle
        self._transport.write(message)
        try:
            return await self._waiting
        except BaseException:
            self.close()
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        self._is_open = False
        if self._transport is not None:
            self._transport.abort()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._has_begun = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""

    def _finish(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            answer = _Answer(self._parser.get_status_code(), self._headers, self._body[:MAX_ANSWER_BYTES])
            self._waiting.set_result(answer)

    def _fail(self, error: Exception) -> None:
        self._is_open = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    # -- asyncio's ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._is_open = cast(asyncio.Transport, transport), True

    def data_received(self, data: bytes) -> None:
        if self._waiting is None or self._waiting.done():
            self.close()  # it speaks without being asked
            return
        self._has_begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(httpx.RemoteProtocolError("the receiver wants another protocol"))
        except httptools.HttpParserError as error:
            self._fail(httpx.RemoteProtocolError(f"no answer in HTTP: {error}"))
        if len(self._body) > MAX_ANSWER_BYTES:
            self._finish()
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            if self._ends_with_the_connection():
                self._finish()
            elif self._has_begun:
                self._fail(httpx.RemoteProtocolError("the connection broke off within the answer"))
            else:
                self._fail(_ClosedWhileIdle())
        self._is_open = False

    def _ends_with_the_connection(self) -> bool:
        names = {name.lower() for name, _ in self._headers}
        is_read = bool(self._has_begun and self._is_head_complete)
        return is_read and not names & {b"content-length", b"transfer-encoding"}

    # -- httptools' --------------------------------------------------------------------

    _is_head_complete = False

    def on_message_begin(self) -> None:
        self._headers, self._body, self._is_head_complete = [], b"", False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))
        if len(self._headers) > 200:
            raise ValueError("too many headers")

    def on_headers_complete(self) -> None:
        self._is_head_complete = True

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            return  # 100 Continue, 103 Early Hints: the answer follows
        self._is_open = self._is_open and self._parser.should_keep_alive()
        self._finish()


def _head_of(request: httpx.Request) -> bytes:
    lines = [b"%s %s HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%s: %s" % header for header in request.headers.raw]
    return b"\r\n".join(lines) + b"\r\n\r\n"


@cache
def _tls() -> ssl.SSLContext:
    # Optimization: reading all certificates takes 20 ms.
    return httpx.create_ssl_context()
