"""An HTTP/1.1 proxy on 127.0.0.1 between the job and an S3 server, which does to requests what a schedule says.

The Host header passes unchanged, so what the client signed stays signed. An exchange is held whole in memory: the
objects of these tests are small, and a fault can then do anything with an answer. The connection to the server is a
new one for every request, so that nothing a fault does to one request can reach another.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

T = TypeVar("T")
Headers = tuple[tuple[str, str], ...]

_HEAD_LIMIT: Final = 1 << 20
_HOP_BY_HOP: Final = ("connection", "expect", "keep-alive", "transfer-encoding")


@dataclass(frozen=True, slots=True)
class Request:
    """What the client asked for. ``target`` is ``/bucket/key?query`` as it came over the wire."""

    method: str
    target: str
    headers: Headers
    body: bytes

    @property
    def line(self) -> str:
        """``METHOD /bucket/key?query``, which the patterns of the rules are searched in."""
        return f"{self.method} {self.target}"

    @property
    def key(self) -> str:
        """``bucket/key``, without the query and unquoted."""
        return unquote(urlsplit(self.target).path).lstrip("/")


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. ``body`` is empty for a HEAD, whatever Content-Length says."""

    status: int
    reason: str
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for known, value in self.headers if known.lower() == name.lower()), None)

    def with_header(self, name: str, value: str) -> Response:
        kept = [pair for pair in self.headers if pair[0].lower() != name.lower()]
        return replace(self, headers=(*kept, (name, value)))

    def with_body(self, body: bytes) -> Response:
        return replace(self, body=body).with_header("Content-Length", str(len(body)))

    @property
    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {self.reason}", *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


@dataclass(frozen=True, slots=True)
class Entry:
    """What a listing says of an object that went through the proxy."""

    etag: str
    size: int
    written: float


@dataclass
class Seen:
    """What went through the proxy: requests, objects written (the newest last), and objects deleted since."""

    requests: list[str] = field(default_factory=list)
    written: dict[str, Entry] = field(default_factory=dict)
    deleted: dict[str, Entry] = field(default_factory=dict)

    def note(self, request: Request, response: Response) -> None:
        key = request.key
        if request.method == "PUT" and "?" not in request.target and response.status == 200:
            self.written.pop(key, None)
            self.written[key] = Entry(response.header("ETag") or "", len(request.body), time.time())
            self.deleted.pop(key, None)
        elif request.method == "DELETE" and key in self.written:
            self.deleted[key] = self.written.pop(key)


class Exchange:
    """One request with the means to serve it, handed to a fault."""

    def __init__(self, request: Request, writer: asyncio.StreamWriter, upstream: tuple[str, int], seen: Seen) -> None:
        self.request = request
        self.seen = seen
        self._writer = writer
        self._upstream = upstream
        self.closed = False

    async def forward(self) -> Response:
        """Have the server do it, and return its answer."""
        reader, writer = await asyncio.open_connection(*self._upstream, limit=_HEAD_LIMIT)
        try:
            request = self.request
            kept = [(n, v) for n, v in request.headers if n.lower() not in (*_HOP_BY_HOP, "content-length")]
            if request.body or request.method in ("PUT", "POST"):
                kept.append(("Content-Length", str(len(request.body))))
            lines = [f"{request.line} HTTP/1.1", *(f"{n}: {v}" for n, v in kept), "Connection: close", "", ""]
            writer.write("\r\n".join(lines).encode("latin-1") + request.body)
            await writer.drain()
            response = await _response(reader, request.method)
        finally:
            writer.close()
        self.seen.note(request, response)
        return response

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, response: Response) -> None:
        await self.send(response.head + response.body)

    def close(self) -> None:
        """End the connection in order, after what was sent."""
        self.closed = True
        self._writer.close()

    def reset(self) -> None:
        """End the connection at once, as a broken one ends: the client sees a reset."""
        self.closed = True
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Fault = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When a fault strikes.

    pattern: searched in ``METHOD /bucket/key?query``.
    skip: so many matching requests pass first. times: so many are struck then; None is all of them.
    share: the chance of each of those to be struck.
    """

    fault: Fault
    pattern: str
    skip: int = 0
    times: int | None = 1
    share: float = 1.0


class Proxy:
    """One proxy with its schedule; a context manager.

    address: what the job is given as its endpoint. seen: what went through, also through an earlier proxy if that one's
    is given. struck: requests that a fault struck, as ``METHOD /bucket/key?query``.
    """

    def __init__(self, upstream: str, rules: Sequence[Rule] = (), *, seed: int = 0, seen: Seen | None = None) -> None:
        at = urlsplit(upstream)
        self._upstream = str(at.hostname), int(at.port or 80)
        self._rules = rules
        self._dice = random.Random(seed)
        self._matched: Counter[int] = Counter()
        self._hits: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self.seen = seen or Seen()
        self.struck: list[str] = []

    def __enter__(self) -> Proxy:
        self._server = _in_loop(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_HEAD_LIMIT))
        self.address = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _in_loop(self._stop())

    async def _stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while not await self._exchange(reader, writer):
                    pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; whether the connection is over."""
        request = await _request(reader, writer)
        self.seen.requests.append(request.line)
        exchange = Exchange(request, writer, self._upstream, self.seen)
        fault = self._fault(request)
        if fault is not None:
            self.struck.append(request.line)
            await fault(exchange)
        else:
            await exchange.answer(await exchange.forward())
        return exchange.closed

    def _fault(self, request: Request) -> Fault | None:
        for index, rule in enumerate(self._rules):
            if not re.search(rule.pattern, request.line):
                continue
            self._matched[index] += 1
            if self._matched[index] <= rule.skip or self._hits[index] == rule.times:
                continue
            if self._dice.random() < rule.share:
                self._hits[index] += 1
                return rule.fault
        return None


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    first, headers = _parsed(await reader.readuntil(b"\r\n\r\n"))
    method, target, _ = first.split(" ", 2)
    if _find(headers, "expect"):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
    return Request(method, target, headers, await _body(reader, headers, until_closed=False))


async def _response(reader: asyncio.StreamReader, method: str) -> Response:
    first, headers = _parsed(await reader.readuntil(b"\r\n\r\n"))
    _, status, *reason = first.split(" ", 2)
    empty = method == "HEAD" or status in ("204", "304")
    body = b"" if empty else await _body(reader, headers, until_closed=True)
    response = Response(int(status), reason[0] if reason else "", headers, body)
    response = replace(response, headers=tuple(pair for pair in headers if pair[0].lower() not in _HOP_BY_HOP))
    return response if empty else response.with_body(body)


def _parsed(head: bytes) -> tuple[str, Headers]:
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return first, tuple((name.strip(), value.strip()) for name, _, value in pairs)


def _find(headers: Iterable[tuple[str, str]], name: str) -> str | None:
    return next((value for known, value in headers if known.lower() == name), None)


async def _body(reader: asyncio.StreamReader, headers: Headers, *, until_closed: bool) -> bytes:
    """until_closed: without a length the body ends with the connection, as only an answer's may."""
    if "chunked" in (_find(headers, "transfer-encoding") or ""):
        pieces = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            pieces.append(await reader.readexactly(size))
            await reader.readexactly(2)
        while (await reader.readuntil(b"\r\n")) != b"\r\n":
            pass
        return b"".join(pieces)
    length = _find(headers, "content-length")
    if length is not None:
        return await reader.readexactly(int(length))
    return await reader.read() if until_closed else b""


def _in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run in the one event loop of all proxies, in a thread of its own."""
    return asyncio.run_coroutine_threadsafe(work, _loop()).result(timeout=60)


_LOCK: Final = threading.Lock()
_LOOPS: Final[list[asyncio.AbstractEventLoop]] = []


def _loop() -> asyncio.AbstractEventLoop:
    with _LOCK:
        if not _LOOPS:
            _LOOPS.append(asyncio.new_event_loop())
            threading.Thread(target=_LOOPS[0].run_forever, name="proxies", daemon=True).start()
    return _LOOPS[0]
