"""An HTTP proxy in front of a real S3 server, which does harm to the requests that a test names."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

# answer: with `status` instead of the server. reset-upload: break in the middle of what is sent.
# lost-answer: the server does it, the answer is never seen. truncate: half an answer, then an end.
# reset-download: the same with a reset. hang: no answer. stall: half an answer, then nothing. none: it is
# only counted.
Harm = Literal[
    "answer", "reset-upload", "lost-answer", "truncate", "reset-download", "hang", "stall", "none"
]
EVERY = 1_000_000
PIECE = 1 << 16
REGION = "us-east-1"  # for which it signs
HOP_BY_HOP = ("connection", "expect", "keep-alive", "transfer-encoding")


@dataclass
class Fault:
    """Harm to the requests `first` to `last`, counted from 1, whose "METHOD /path?query" matches,
    and that carry the header `header` if one is named."""

    request: str  # a regular expression
    harm: Harm
    status: int = 500
    code: str = "InternalError"
    message: str = "told to"
    body: str = ""  # what else is in the answer, in XML
    first: int = 1
    last: int = 1
    header: str = ""
    seen: int = 0


@dataclass
class FaultyProxy:
    """`faults` may be changed at any time; `requests` are those that came, "METHOD /path?query".

    With `keys` (access and secret key) it signs what it passes on itself, so that it may be something
    else than what came: without the headers that `ignored` matches, and without the path `below`.
    """

    upstream: str
    keys: tuple[str, str] | None = None
    ignored: str = ""  # a regular expression
    ignoring: str = ""  # another one, of the methods with which it does
    below: str = ""
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def harm(self, request: str, harm: Harm, **settings: Any) -> Fault:
        fault = Fault(request, harm, **settings)
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        with self._lock:
            self.faults.clear()

    def fault_of(self, request: str, headers: Message) -> Fault | None:
        """Count the request, and return the harm that is to be done to it."""
        with self._lock:
            self.requests.append(request)
            found = None
            for fault in self.faults:
                carried = not fault.header or fault.header in headers
                if carried and re.search(fault.request, request):
                    fault.seen += 1
                    if fault.first <= fault.seen <= fault.last:
                        found = found or fault
            return found


@contextmanager
def faulty_proxy(
    upstream: str, address: str = "127.0.0.1", **settings: Any
) -> Iterator[FaultyProxy]:
    """Yield a proxy in front of the server at the URL `upstream`, on a port of `address`."""
    proxy = FaultyProxy(upstream, **settings)
    server = (_Server6 if ":" in address else _Server)((address, 0), _Handler)
    server.proxy = proxy
    host = f"[{address}]" if ":" in address else address
    proxy.url = f"http://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closed.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    proxy: FaultyProxy
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: that connections break is what this is for."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_one_request(self) -> None:
        """Like the standard one, for any method."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        fault = self.server.proxy.fault_of(f"{self.command} {self.path}", self.headers)
        harm = fault.harm if fault else None
        size = int(self.headers.get("Content-Length") or 0)
        if harm == "reset-upload":
            self.rfile.read(size // 2)
            self._reset()
        elif harm == "hang":
            self.rfile.read(size)
            self._wait()
        elif fault is not None and harm == "answer":
            self.rfile.read(size)
            self._refuse(fault)
        else:
            self._forward(self.rfile.read(size), harm)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _forward(self, body: bytes, harm: Harm | None) -> None:
        link = http.client.HTTPConnection(urlsplit(self.server.proxy.upstream).netloc, timeout=60)
        proxy = self.server.proxy
        path = self.path.removeprefix(proxy.below)
        passed = [each for each in self.headers.items() if each[0].lower() not in HOP_BY_HOP]
        if proxy.keys is not None:
            passed = _signed(proxy, self.command, path, passed, body)
        try:
            link.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
            for name, value in passed:  # Host stays: it is signed
                link.putheader(name, value)
            link.endheaders(body)
            answer = link.getresponse()
            if harm == "lost-answer":
                answer.read()
                self._reset()
            else:
                self._pass_on(answer, harm)
        finally:
            link.close()

    def _pass_on(self, answer: http.client.HTTPResponse, harm: Harm | None) -> None:
        known = answer.getheader("Content-Length")
        whole = b"" if known is not None else answer.read()
        size = int(known) if known is not None else len(whole)
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in (*HOP_BY_HOP, "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command == "HEAD":
            return
        rest = size if harm in (None, "none") else size // 2
        if whole:
            self.wfile.write(whole[:rest])
        while not whole and rest and (piece := answer.read(min(rest, PIECE))):
            self.wfile.write(piece)
            rest -= len(piece)
        if harm == "stall":
            self._wait()
        elif harm == "reset-download":
            self._reset()
        elif harm == "truncate":
            self._end()

    def _refuse(self, fault: Fault) -> None:
        text = f"<Error><Code>{fault.code}</Code><Message>{fault.message}</Message>{fault.body}</Error>"
        body = b"" if self.command == "HEAD" else text.encode()
        self.send_response_only(fault.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _wait(self) -> None:
        self.server.proxy.closed.wait()
        self._end()

    def _reset(self) -> None:
        # Closing with a linger of 0 s sends a reset instead of an end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.rfile.close()
        self.close_connection = True

    def _end(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


def _signed(
    proxy: FaultyProxy, method: str, path: str, headers: list[tuple[str, str]], body: bytes
) -> list[tuple[str, str]]:
    """The headers of a request of our own, like the one that came, but for what is left out."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    assert proxy.keys is not None
    ignored = proxy.ignored if re.match(proxy.ignoring, method) else ""
    out = re.compile(rf"host|authorization|x-amz-date|{ignored or 'host'}", re.IGNORECASE)
    kept = {name: value for name, value in headers if not out.fullmatch(name)}
    request = AWSRequest(method, proxy.upstream + path, kept, body)
    S3SigV4Auth(Credentials(*proxy.keys), "s3", REGION).add_auth(request)
    return [*request.headers.items(), ("Host", urlsplit(proxy.upstream).netloc)]
