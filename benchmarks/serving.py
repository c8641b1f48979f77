"""The server that answers, on a core of its own: nginx if there is one, else a protocol on uvloop.

nginx is looked for on the path; where it is missing and Debian's packages can be had, it is unpacked, not installed.
"""

from __future__ import annotations

import asyncio
import http.client
import multiprocessing
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import attrs
import trustme
import uvloop

from benchmarks import routes
from benchmarks.measuring import SERVER_CORE, on_core

HOST = "127.0.0.1"
PACKAGES = Path(__file__).parent / "results" / "nginx"

_CONFIGURATION = """
daemon off;
master_process off;
error_log {directory}/error.log warn;
pid {directory}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    {temporary}
    server {{
        listen {host}:{port} backlog=4096;
        listen {host}:{tls_port} ssl backlog=4096;
        ssl_certificate {directory}/server.pem;
        ssl_certificate_key {directory}/server.pem;
        location = {count_path} {{ stub_status; }}
        {locations}
    }}
}}
"""


@attrs.define(kw_only=True)
class Server:
    """A running server, and its own count of requests."""

    name: str
    port: int
    tls_port: int
    counts_itself: bool
    """Whether asking for the count is counted too."""
    asked: int = 0

    def url(self, *, tls: bool = False) -> str:
        """Where it listens."""
        return f"https://{HOST}:{self.tls_port}" if tls else f"http://{HOST}:{self.port}"

    def requests(self) -> int:
        """How many requests it counted, those for the count left out."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        connection.request("GET", routes.COUNT_PATH)
        text = connection.getresponse().read().decode()
        connection.close()
        self.asked += self.counts_itself
        # stub_status: three numbers in a line, accepted, handled, requests.
        counted = re.findall(r"\d+", text.splitlines()[2])[2] if "accepts" in text else text
        return int(counted) - self.asked


@attrs.frozen
class ReplyDelay:
    """How long replies take, in seconds: of so many debits one is slow, and takes so many times as long."""

    delay: float = 0.0
    slow_every: int = 0
    slow_factor: float = 1.0

    def of(self, number: int) -> float:
        """Seconds that the reply about a debit takes: slow ones are spread evenly, but not in step with the workers."""
        slow = self.slow_every and (number * 7919) % self.slow_every == 1
        return self.delay * self.slow_factor if slow else self.delay


@contextmanager
def serving() -> Iterator[Server]:
    """Start the fastest server there is, over plain HTTP and TLS; processes started meanwhile trust its certificate."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        certify(directory)
        nginx = find_nginx()
        start = _start_own(directory) if nginx is None else _start_nginx(nginx, directory)
        with _trusting(directory / "ca.pem"), start as server:
            yield server


@contextmanager
def serving_late(delays: ReplyDelay) -> Iterator[Server]:
    """Start a server that takes its time."""
    with tempfile.TemporaryDirectory() as name:
        certify(Path(name))
        with _start_own(Path(name), delays) as server:
            yield server


def certify(directory: Path) -> None:
    """Write the certificate of a new authority, and one of its for the loopback interface with its key."""
    authority = trustme.CA()
    certificate = authority.issue_cert(HOST, "localhost")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")


@contextmanager
def _trusting(authority: Path) -> Iterator[None]:
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(authority)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SSL_CERT_FILE"]
        else:
            os.environ["SSL_CERT_FILE"] = before


@cache
def find_nginx() -> str | None:
    """Find nginx, unpacking Debian's package if there is none; None if it can't be had."""
    places = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin"
    if (found := shutil.which("nginx", path=places)) is not None:
        return found
    binary = PACKAGES / "usr" / "sbin" / "nginx"
    if not binary.exists() and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        PACKAGES.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "nginx"], cwd=PACKAGES, check=False, capture_output=True)
        for package in PACKAGES.glob("nginx_*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, PACKAGES], check=False, capture_output=True)
    # The package's libraries are those of nearly every Debian; without them it would not even print its version.
    if binary.exists() and subprocess.run([binary, "-v"], check=False, capture_output=True).returncode == 0:
        return str(binary)
    return None


@contextmanager
def _start_nginx(nginx: str, directory: Path) -> Iterator[Server]:
    port, tls_port = _free_ports(2)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    configuration = _CONFIGURATION.format(
        directory=directory,
        host=HOST,
        port=port,
        tls_port=tls_port,
        count_path=routes.COUNT_PATH,
        temporary=" ".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds),
        locations="\n        ".join(routes.nginx_locations()),
    )
    (directory / "nginx.conf").write_text(configuration)
    version = (
        subprocess.run([nginx, "-v"], check=True, capture_output=True, text=True).stderr.rpartition("/")[2].strip()
    )
    with on_core(SERVER_CORE), (directory / "stderr").open("wb") as stderr:
        process = subprocess.Popen([nginx, "-p", directory, "-c", "nginx.conf"], stderr=stderr)
    try:
        _wait_until_open(port, lambda: process.poll() is not None, directory / "stderr")
        yield Server(name=f"nginx {version}, return 200", port=port, tls_port=tls_port, counts_itself=True)
    finally:
        process.terminate()
        process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind((HOST, 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_until_open(port: int, ended: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not ended():
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"the server did not start: {log.read_text()}")


class ReplyProtocol(asyncio.Protocol):
    """Answers the routes, at once or late, and counts."""

    requests = 0
    delays = ReplyDelay()

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        expected = int(length[1]) if length else 0
        if len(rest) < expected:
            return
        self._received = rest[expected:]
        path = head.split(b" ", 2)[1].decode()
        if path == routes.COUNT_PATH:
            self._transport.write(routes.response(200, "text/plain", str(ReplyProtocol.requests)))
            return
        ReplyProtocol.requests += 1
        answer = routes.answer(path)
        number = re.search(r"debit_(\d+)", path)
        delay = ReplyProtocol.delays.of(int(number[1]) if number else 0)
        if delay:
            asyncio.get_running_loop().call_later(delay, self._transport.write, answer)
        else:
            self._transport.write(answer)


@contextmanager
def _start_own(directory: Path, delays: ReplyDelay | None = None) -> Iterator[Server]:
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    with on_core(SERVER_CORE):
        process = context.Process(target=_serve, args=(theirs, directory, delays or ReplyDelay()), daemon=True)
        process.start()
    theirs.close()
    port, tls_port = pipe.recv()
    try:
        yield Server(name=f"uvloop {uvloop.__version__} protocol", port=port, tls_port=tls_port, counts_itself=False)
    finally:
        pipe.close()
        process.join()


def _serve(pipe: Connection, directory: Path, delays: ReplyDelay) -> None:
    ReplyProtocol.delays = delays

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(directory / "server.pem")
        plain = await loop.create_server(ReplyProtocol, HOST, 0, backlog=4096)
        tls = await loop.create_server(ReplyProtocol, HOST, 0, backlog=4096, ssl=context)
        pipe.send([each.sockets[0].getsockname()[1] for each in (plain, tls)])
        closed = asyncio.Event()
        loop.add_reader(pipe.fileno(), closed.set)
        await closed.wait()

    uvloop.run(serve())
