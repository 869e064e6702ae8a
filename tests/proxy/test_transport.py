"""
The transport's failures by name: what was provably not sent, and what may have been billed.

Against sockets that misbehave below HTTP, which `tests/provider` cannot.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from proxy import transport
from proxy.transport import GatewayTransport

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], object], *, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Accept one connection, read the request, let `answer` do as it likes, and hang up at the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True)
                with connection:
                    connection.recv(65_536)
                    answer(connection)
                    if answer is hang:
                        done.wait(10)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            done.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def hang(connection: socket.socket) -> None:
    """Send nothing, and keep the connection."""


def send(url: str, *, read_timeout_s: float = 0.3) -> bytes:
    """Post to `url` and return the answer's body."""

    async def call() -> bytes:
        provider = GatewayTransport(connect_timeout_s=1, read_timeout_s=read_timeout_s)
        try:
            response = await provider.handle_async_request(httpx.Request("POST", url, content=b"{}"))
            try:
                return b"".join([chunk async for chunk in response.stream])
            finally:
                await response.stream.aclose()
        finally:
            await provider.aclose()

    return asyncio.run(call())


class TestProvablyNotSent:
    def test_nobody_listens(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

        with pytest.raises(httpx.ConnectError):
            send(f"http://127.0.0.1:{port}/v1")

    def test_there_is_no_such_host(self):
        with pytest.raises(httpx.ConnectError):
            send("http://no-such-host.invalid/v1")

    def test_nobody_accepts(self):
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(4):  # fill the queue of connections that wait to be accepted
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(listener.getsockname())

            with pytest.raises(httpx.ConnectTimeout):
                send(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", read_timeout_s=3)


class TestPerhapsBilled:
    def test_no_answer_in_time(self):
        with server(hang) as url, pytest.raises(httpx.ReadTimeout):
            send(url)

    @pytest.mark.parametrize(
        "said",
        [b"", b"HTTP/1.1 200 OK\r\ncontent-le", b"nonsense\r\n\r\n", HEAD + b"x: %b\r\n" % (b"y" * 300_000)],
        ids=["nothing", "half", "nonsense", "endless head"],
    )
    def test_a_broken_answer(self, said):
        with server(lambda connection: connection.sendall(said)) as url, pytest.raises(httpx.ReadError):
            send(url)

    def test_a_body_that_is_cut_off(self):
        said = HEAD + b"content-length: 100\r\n\r\nshort"

        with server(lambda connection: connection.sendall(said)) as url, pytest.raises(httpx.ReadError):
            send(url)


def test_a_whole_answer_arrives():
    said = HEAD + b"content-length: 5\r\n\r\nhello"

    with server(lambda connection: connection.sendall(said)) as url:
        assert send(url) == b"hello"


def test_a_note_in_advance_is_no_answer():
    said = (
        b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n" + HEAD + b"content-length: 5\r\n\r\nhello"
    )

    with server(lambda connection: connection.sendall(said)) as url:
        assert send(url) == b"hello"


def test_an_answer_without_a_length_ends_with_its_connection():
    with server(lambda connection: connection.sendall(HEAD + b"\r\nhello")) as url:
        assert send(url) == b"hello"


def test_tls_is_spoken_with_whom_the_authorities_vouch_for_alone(tmp_path, monkeypatch):
    certificate, key = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    said = HEAD + b"content-length: 5\r\n\r\nhello"

    def answer(connection: socket.socket) -> None:
        connection.sendall(said)

    transport._tls.cache_clear()
    with server(answer, tls=context) as url, pytest.raises(httpx.ConnectError):
        send(url)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    transport._tls.cache_clear()
    try:
        with server(answer, tls=context) as url:
            assert send(url) == b"hello"
    finally:
        transport._tls.cache_clear()


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a provider")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "certificate.pem", folder / "key.pem"
