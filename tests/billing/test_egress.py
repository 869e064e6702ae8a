"""Where webhooks may be posted to: what is refused, how it is said, and what a connection is made to."""

import asyncio
import ipaddress
import socket
from typing import Any
from unittest import mock

import httpx
from django.test import SimpleTestCase, override_settings

from billing.webhooks.egress import GuardedTransport, RefusedAddress, check_address, check_url, is_public

REFUSED_URLS = {
    "loopback": "http://127.0.0.1/hook",
    "loopback, IPv6": "http://[::1]/hook",
    "private": "https://10.1.2.3/hook",
    "private too": "https://172.16.0.1/",
    "and this": "https://192.168.1.1:8443/",
    "unspecified": "http://0.0.0.0:4000/",
    "unspecified, IPv6": "http://[::]/",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "metadata, IPv6": "http://[fd00:ec2::254]/",
    "carrier-grade NAT": "http://100.64.0.1/",
    "link-local with a zone": "http://[fe80::1%25eth0]/",
    "multicast": "http://224.0.0.1/",
    "broadcast": "http://255.255.255.255/",
    "documentation": "http://192.0.2.1/",
    "mapped": "http://[::ffff:127.0.0.1]/",
    "mapped, in hexadecimal": "http://[::ffff:7f00:1]/",
    "compatible": "http://[::127.0.0.1]/",
    "NAT64": "http://[64:ff9b::7f00:1]/",
    "NAT64 of a local network": "http://[64:ff9b:1::a00:1]/",
    "6to4": "http://[2002:7f00:1::]/",
    "site-local": "http://[fec0::1]/",
    "decimal": "http://2130706433/",
    "hexadecimal": "http://0x7f000001/",
    "octal": "http://017700000001/",
    "short": "http://127.1/",
    "mixed": "http://0x7f.0.0.1/",
    "with a dot behind": "http://2130706433./",
    "localhost": "http://localhost:8000/",
    "a name below it": "http://hook.localhost/",
    "a name of this network": "http://redis:6379/",
    "a name of a cloud's network": "http://metadata.google.internal/",
    "another scheme": "ftp://example.com/",
    "a file": "file:///etc/passwd",
    "no host": "https:///hook",
    "no address": "hook",
    "a password": "https://user:secret@example.com/",
    "a fragment": "https://example.com/#x",
    "a bad port": "https://example.com:99999/",
    "a line break": "https://example.com/\r\nx-evil: 1",
    "a backslash": "https://example.com\\@127.0.0.1/",
}


class UrlTests(SimpleTestCase):
    def test_what_is_not_on_the_public_network_is_refused_and_says_why(self):
        for what, url in REFUSED_URLS.items():
            with self.subTest(what), self.assertRaises(RefusedAddress) as caught:
                check_url(url)
            self.assertGreater(len(str(caught.exception)), 20, what)

    def test_the_rest_is_taken(self):
        for url in (
            "https://example.com/hook?a=1",
            "http://hooks.example.com:8080",
            "https://93.184.215.14/",
            "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/",
            "https://xn--bcher-kva.example/",
            "https://1password.example/",
        ):
            with self.subTest(url):
                check_url(url)

    def test_the_message_names_the_setting_that_would_allow_it(self):
        with self.assertRaisesMessage(RefusedAddress, "WEBHOOK_ALLOW_PRIVATE"):
            check_url("http://10.1.2.3/")

    @override_settings(WEBHOOK_ALLOW_PRIVATE=["true"])
    def test_the_setting_allows_private_addresses_but_not_metadata(self):
        for url in ("http://10.1.2.3/", "http://127.0.0.1:9000/", "http://localhost/", "http://billing/"):
            with self.subTest(url):
                check_url(url)
        for url in ("http://169.254.169.254/", "http://0.0.0.0/", "http://2130706433/"):
            with self.subTest(url), self.assertRaises(RefusedAddress):
                check_url(url)

    @override_settings(WEBHOOK_ALLOW_PRIVATE=["10.1.0.0/16"])
    def test_the_setting_may_name_networks(self):
        check_url("http://10.1.2.3/")
        for url in ("http://10.2.0.1/", "http://127.0.0.1/", "http://localhost/"):
            with self.subTest(url), self.assertRaises(RefusedAddress):
                check_url(url)

    def test_an_address_is_public_only_if_what_it_embeds_is(self):
        check_address(ipaddress.ip_address("64:ff9b::5db8:d70e"), "example.com")
        self.assertTrue(is_public(ipaddress.ip_address("93.184.215.14")))


def answers(*addresses: str) -> Any:
    """Return what stands for the name server: each look-up gets the next of these, the last for ever."""
    left = list(addresses)

    async def getaddrinfo(loop: Any, host: str, port: int, **options: Any) -> list[tuple]:
        address = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in address.split(",")]

    return mock.patch("asyncio.base_events.BaseEventLoop.getaddrinfo", getaddrinfo)


def no_connections(tried: list[tuple]) -> Any:
    """Return what stands for the network: nobody can be connected to."""

    async def create_connection(loop: Any, make: Any, host: str, port: int, **options: Any) -> Any:
        tried.append((host, port))
        raise ConnectionRefusedError("far enough")

    return mock.patch("asyncio.base_events.BaseEventLoop.create_connection", create_connection)


class ConnectionTests(SimpleTestCase):
    """What counts is the address that is connected to."""

    def get(self, url: str) -> httpx.Response:
        async def attempt() -> httpx.Response:
            async with httpx.AsyncClient(transport=GuardedTransport(max_connections=1)) as client:
                return await client.get(url)

        return asyncio.run(attempt())

    def test_a_name_that_resolves_to_this_machine_is_refused(self):
        with answers("127.0.0.1"), self.assertRaisesMessage(RefusedAddress, "example.com (127.0.0.1)"):
            self.get("http://example.com/")

    def test_one_forbidden_address_among_others_is_enough(self):
        with answers("93.184.215.14,10.0.0.1"), self.assertRaises(RefusedAddress):
            self.get("http://example.com/")

    def test_unusual_spellings_are_refused_also_where_nobody_looked_before(self):
        for host in ("2130706433", "0x7f.1", "127.1", "017700000001", "[::ffff:7f00:1]"):
            with self.subTest(host), self.assertRaises(RefusedAddress):
                self.get(f"http://{host}/")

    def test_a_name_is_asked_for_once_and_the_checked_address_is_the_one_connected_to(self):
        """Rebinding: public when it is checked, this machine a moment later."""
        connected: list[tuple] = []

        with (
            answers("93.184.215.14", "127.0.0.1"),
            no_connections(connected),
            self.assertRaises(httpx.ConnectError),
        ):
            self.get("http://example.com/")

        self.assertEqual(connected, [("93.184.215.14", 80)])

    def test_a_second_connection_is_checked_again(self):
        with answers("93.184.215.14", "127.0.0.1"), no_connections([]):
            with self.assertRaises(httpx.ConnectError):
                self.get("http://example.com/")
            with self.assertRaises(RefusedAddress):
                self.get("http://example.com/")

    def test_a_proxy_of_the_environment_is_not_used(self):
        with (
            mock.patch.dict(
                "os.environ", {"HTTP_PROXY": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"}
            ),
            answers("127.0.0.1"),
            self.assertRaises(RefusedAddress),
        ):
            asyncio.run(self._directly())

    async def _directly(self) -> None:
        transport = GuardedTransport(max_connections=1)
        await transport.handle_async_request(httpx.Request("POST", "http://example.com/", content=b"{}"))


@override_settings(WEBHOOK_ALLOW_PRIVATE=["true"])
class ExchangeTests(SimpleTestCase):
    """What is sent and read, over real connections."""

    def exchange(
        self, *answers: bytes, posts: int | None = None, closes: bool = False
    ) -> list[httpx.Response]:
        """Post to a server that answers each request with the next of these; `closes`: and hangs up."""
        self.requests: list[bytes] = []
        self.connections = 0
        left = list(answers)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            while left:
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.IncompleteReadError:
                    break
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                writer.write(left.pop(0))
                if closes:
                    break
            writer.close()

        async def attempt() -> list[httpx.Response]:
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            transport = GuardedTransport(max_connections=2)
            found = []
            try:
                for _ in range(posts or len(answers)):
                    request = httpx.Request("POST", f"http://127.0.0.1:{port}/a?b=c", content=b'{"x":1}')
                    async with asyncio.timeout(20):
                        response = await transport.handle_async_request(request)
                    await response.aread()
                    found.append(response)
                return found
            finally:
                await transport.aclose()
                server.close()
                await server.wait_closed()

        return asyncio.run(attempt())

    def test_a_connection_is_kept_and_the_request_is_whole(self):
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

        first, second = self.exchange(answer, answer)

        self.assertEqual((first.status_code, first.content, second.content), (200, b"ok", b"ok"))
        self.assertEqual(self.connections, 1)
        self.assertTrue(self.requests[0].startswith(b"POST /a?b=c HTTP/1.1\r\n"))
        self.assertTrue(self.requests[0].endswith(b'\r\n\r\n{"x":1}'))
        self.assertIn(b"Host: 127.0.0.1:", self.requests[0])

    def test_a_kept_connection_that_was_closed_meanwhile_is_replaced(self):
        answer = b"HTTP/1.1 204 No Content\r\n\r\n"

        responses = self.exchange(answer, answer, closes=True)

        self.assertEqual([each.status_code for each in responses], [204, 204])
        self.assertEqual(self.connections, 2)

    def test_answers_of_every_form_are_read(self):
        for answer, status, body in (
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, b"abc"),
            (
                b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nz",
                200,
                b"z",
            ),
            (b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", 410, b""),
        ):
            with self.subTest(answer):
                (response,) = self.exchange(answer)
                self.assertEqual((response.status_code, response.content), (status, body))
        (response,) = self.exchange(b"HTTP/1.0 500 Oops\r\n\r\nto the end", closes=True)
        self.assertEqual((response.status_code, response.content), (500, b"to the end"))

    def test_a_long_answer_is_read_at_its_beginning(self):
        long = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 1_000_000

        (response,) = self.exchange(long)

        self.assertEqual(len(response.content), 8192)

    def test_what_is_no_answer_says_so(self):
        for answer in (b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", b""):
            with self.subTest(answer), self.assertRaises(httpx.RemoteProtocolError):
                self.exchange(answer, closes=True)
