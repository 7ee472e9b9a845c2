"""What a store can do to a request, each as a function over one exchange of the proxy."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

from tests.chaos.proxy import Entry, Exchange, Fault, Response

FOREVER: Final = 3600.0
STALE_SECONDS: Final = 3.0
"""For so long a stale listing does not know of a change."""

_CONTENTS: Final = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)
_KEY: Final = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)
_SHARE_OF_BODY: Final = 0.4


def error(status: int, code: str) -> Fault:
    """The server answers with an error of S3's, and does nothing."""

    async def fault(exchange: Exchange) -> None:
        body = _error_body(code)
        headers = (("Content-Type", "application/xml"), ("Content-Length", str(len(body))))
        sent = b"" if exchange.request.method == "HEAD" else body
        await exchange.answer(Response(status, code, headers, sent))

    return fault


slow_down: Final = error(503, "SlowDown")
internal_error: Final = error(500, "InternalError")
expired_token: Final = error(400, "ExpiredToken")
forbidden: Final = error(403, "AccessDenied")


async def html_page(exchange: Exchange) -> None:
    """A gateway on the way answers in its own words."""
    body = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
    headers = (("Content-Type", "text/html"), ("Content-Length", str(len(body))))
    await exchange.answer(Response(502, "Bad Gateway", headers, b"" if exchange.request.method == "HEAD" else body))


async def error_in_a_success(exchange: Exchange) -> None:
    """Status 200 and an error in the body: how S3 ends an upload in parts that fails while it is put together."""
    body = (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>InternalError</Code><Message>as told</Message></Error>'
    )
    await exchange.answer(Response(200, "OK", (("Content-Length", str(len(body))),), body))


async def refused(exchange: Exchange) -> None:
    """The connection breaks before anything is done."""
    exchange.reset()


async def reset_in_body(exchange: Exchange) -> None:
    """The connection breaks in the middle of the answer's body."""
    response = await exchange.forward()
    await exchange.send(response.head + response.body[: _part(response)])
    exchange.reset()


async def ends_early(exchange: Exchange) -> None:
    """The body is shorter than Content-Length says, and the connection ends in order."""
    response = await exchange.forward()
    await exchange.send(response.head + response.body[: _part(response)])
    exchange.close()


async def short_body(exchange: Exchange) -> None:
    """The body is short, and Content-Length agrees with it."""
    response = await exchange.forward()
    await exchange.answer(response.with_body(response.body[: _part(response)]))


async def wrong_etag(exchange: Exchange) -> None:
    """The header names another version of the object than the body is of."""
    response = await exchange.forward()
    await exchange.answer(response.with_header("ETag", '"0123456789abcdef0123456789abcdef"'))


async def drip(exchange: Exchange) -> None:
    """The body comes in small pieces over a second and a half, or a little more."""
    response = await exchange.forward()
    await exchange.send(response.head)
    size = max(1, -(-len(response.body) // 30))
    for start in range(0, len(response.body), size):
        await exchange.send(response.body[start : start + size])
        await asyncio.sleep(0.05)


async def silence(_: Exchange) -> None:
    """There is no answer, and the connection stays."""
    await asyncio.sleep(FOREVER)


async def answer_lost(exchange: Exchange) -> None:
    """The server does it, and the connection breaks before it says so."""
    await exchange.forward()
    exchange.reset()


def after(action: Callable[[], object]) -> Fault:
    """Something happens to the store just before this request, which is served as usual."""

    async def fault(exchange: Exchange) -> None:
        await asyncio.to_thread(action)
        await exchange.answer(await exchange.forward())

    return fault


async def listing_without_the_newest(exchange: Exchange) -> None:
    """A listing does not know yet what was written in the last seconds."""
    response = await exchange.forward()
    bucket = exchange.request.key.partition("/")[0]
    since = time.time() - STALE_SECONDS
    hidden = {key for key, entry in exchange.seen.written.items() if entry.written > since}

    def kept(entry: re.Match[bytes]) -> bytes:
        key = _KEY.search(entry[0])
        return b"" if key and f"{bucket}/{key[1].decode()}" in hidden else entry[0]

    await exchange.answer(response.with_body(_CONTENTS.sub(kept, response.body)))


def listing_with_the_deleted(more: Mapping[str, Entry]) -> Fault:
    """A listing still shows what was deleted: through this proxy, and ``more`` (``bucket/key``)."""

    async def fault(exchange: Exchange) -> None:
        response = await exchange.forward()
        bucket, prefix = exchange.request.key.partition("/")[0], _prefix(exchange.request.target)
        gone = {**more, **exchange.seen.deleted}
        shown = sorted(k.partition("/")[2] for k in gone if k.startswith(f"{bucket}/{prefix}"))
        extra = "".join(_contents(key, gone[f"{bucket}/{key}"]) for key in shown).encode()
        first = _CONTENTS.search(response.body)
        at = first.start() if first else response.body.rfind(b"</ListBucketResult>")
        await exchange.answer(response.with_body(response.body[:at] + extra + response.body[at:]))

    return fault


def _error_body(code: str) -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>as told</Message></Error>'.encode()
    )


def _prefix(target: str) -> str:
    return parse_qs(urlsplit(target).query).get("prefix", [""])[0]


def _contents(key: str, entry: Entry) -> str:
    when = datetime.fromtimestamp(entry.written, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified><ETag>{escape(entry.etag)}</ETag>"
        f"<Size>{entry.size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


def _part(response: Response) -> int:
    return int(len(response.body) * _SHARE_OF_BODY)
