"""An S3 server on loopback, a proxy before it that fails on purpose, and a small web server."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import http.server
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}
EXPIRED = b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>AKIASECRET expired</Message></Error>"
BLOCK = 64 << 10
STALL = 2.0  # s


@dataclass
class Request:
    """What a proxy or server was asked."""

    method: str
    path: str
    bytes: int = 0  # of the body that was sent
    headers: dict[str, str] = field(default_factory=dict)  # by their names in lower case


#: A fault looks at the number of a request, from 0, and the request, and says what to do with it; None: nothing.
Fault = Callable[[int, Request], str | None]


class Server(http.server.ThreadingHTTPServer):
    """Clients may go at any moment, which is no error."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass


class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


class Proxy:
    """Hands requests on, unless its `fault` says what becomes of one.

    That is 500, 503, reset, truncated, slow, stall, lost (the store acts, the answer is reset) or expired.
    """

    def __init__(self, port: int) -> None:
        self.fault: Fault = lambda number, request: None
        self.requests: list[Request] = []
        self._target = port
        self._lock = threading.Lock()
        self._server = Server(("127.0.0.1", 0), partial(ProxyHandler, self))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that reaches the store through this proxy."""
        return {**os.environ, **KEYS, "AWS_ENDPOINT_URL": self.url, "AWS_ENDPOINT_URL_S3": self.url}

    def forget(self) -> None:
        self.fault = lambda number, request: None
        self.requests.clear()

    def note(self, request: Request) -> str | None:
        with self._lock:
            self.requests.append(request)
            return self.fault(len(self.requests) - 1, request)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def fetched(self) -> int:
        """Bytes of all bodies sent for GET."""
        return sum(request.bytes for request in self.requests if request.method == "GET")


class ProxyHandler(Quiet):
    def __init__(self, proxy: Proxy, *arguments: Any) -> None:
        self.proxy = proxy
        super().__init__(*arguments)

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(
            self.command, self.path, headers={name.lower(): value for name, value in self.headers.items()}
        )
        fault = self.proxy.note(request)
        if fault in ("500", "503"):
            return self.reply(int(fault), b"<Error><Code>InternalError</Code></Error>")
        if fault == "stall":
            time.sleep(STALL)
            return self.reset()
        if fault == "expired":
            return self.reply(400, EXPIRED)
        if fault == "reset":
            return self.reset()
        status, answered, content = self.ask(body)
        if fault == "lost":  # the store did it, and the answer got lost
            return self.reset()
        request.bytes = len(content)
        self.send_response(status)
        for name, value in answered:
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                self.send_header(name, value)
        length = next((value for name, value in answered if name.lower() == "content-length"), str(len(content)))
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        if fault == "truncated":
            request.bytes = len(content) // 2
            self.wfile.write(content[: request.bytes])
            self.wfile.flush()
            return self.reset()
        if fault == "slow":
            for start in range(0, len(content), BLOCK):
                self.wfile.write(content[start : start + BLOCK])
                time.sleep(0.01)
            return None
        self.wfile.write(content)
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

    def ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy._target, timeout=60)
        try:
            # The signature holds for the name that the client asked.
            connection.request(self.command, self.path, body or None, dict(self.headers))
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def reply(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def reset(self) -> None:
        """End the connection so that the other side sees it break."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.close()


class WebServer:
    """Serves files by their names, in parts unless `parts` is off. `requests` are those so far."""

    def __init__(self, files: dict[str, bytes], parts: bool = True) -> None:
        self.files, self.parts = files, parts
        self.requests: list[Request] = []
        self._server = Server(("127.0.0.1", 0), partial(WebHandler, self))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class WebHandler(Quiet):
    def __init__(self, server: WebServer, *arguments: Any) -> None:
        self.served = server
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path, _, _ = unquote(self.path).partition("?")
        content, asked = self.served.files.get(path.lstrip("/")), self.headers.get("Range")
        request = Request(self.command, self.path, headers={name.lower(): text for name, text in self.headers.items()})
        self.served.requests.append(request)
        status, part, headers = 200, content or b"", {}
        if content is None:
            status = 404
        else:
            headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            if self.headers.get("If-Match") not in (None, headers["ETag"]):
                status, part = 412, b""
            elif asked is not None and self.served.parts:
                first, _, last = asked.removeprefix("bytes=").partition("-")
                start = int(first) if first else max(0, len(content) - int(last))
                stop = min(int(last) + 1, len(content)) if first and last else len(content)
                status, part = 206, content[start:stop]
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        request.bytes = len(part)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


@dataclass
class S3:
    """A store with a proxy before it, and a client that goes around it."""

    proxy: Proxy
    port: int

    @cached_property
    def client(self) -> Any:
        """A client that goes around the proxy."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
            region_name="us-east-1",
        )

    def make_bucket(self, name: str) -> str:
        self.client.create_bucket(Bucket=name)
        return name

    def upload(self, folder: Path, bucket: str, prefix: str = "") -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.client.upload_file(str(path), bucket, prefix + path.relative_to(folder).as_posix())

    def objects(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """Content by key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [one["Key"] for page in pages for one in page.get("Contents", [])]
        return {key: self.client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


@contextlib.contextmanager
def running_s3() -> Iterator[S3]:
    """Start moto's server in a process of its own."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        proxy = Proxy(port)
        yield S3(proxy, port)
        proxy.close()
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(port: int, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise TimeoutError("the server did not start")
