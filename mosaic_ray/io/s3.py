"""S3 and stores that speak its protocol: connection and credentials by s3fs, each request our own.

s3fs tries a request up to 25 times on its own and botocore again below it; here both try once, and
:mod:`mosaic_ray.io.patience` alone decides. Every request has a time limit, what is read is compared with what was
asked for and pinned to the ETag that is known, and an upload that fails is aborted.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import IO, Any, Final, NamedTuple, TypeVar, cast

import fsspec
from fsspec.asyn import sync

from mosaic_ray.io.failures import ChangedError, TruncatedError, cause_of, code_of
from mosaic_ray.io.patience import Patience
from mosaic_ray.io.store import READ_AHEAD, FileInfo, file_info

T = TypeVar("T")

PART_BYTES: Final = 16 << 20
"""Of an upload in parts; what is shorter than two of them is uploaded at once."""

AT_ONCE: Final = 8
"""Requests of one call that run at once; parts of an upload, which are larger, half as many."""

SLOWEST: Final = 64 << 10
"""Bytes a second below which a transfer counts as hanging."""

_NO_BULK: Final = ("NotImplemented", "MethodNotAllowed", "MissingContentMD5", "InvalidRequest", "501", "405")
"""What stores answer that cannot delete several files by one request, or want another checksum of it."""

_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class _Block(NamedTuple):
    """data: the bytes of a range; etag, size: of the whole file."""

    data: bytes
    etag: str | None
    size: int


class S3Store:
    """See :class:`mosaic_ray.io.store.Store`; ``full`` is ``bucket/key``."""

    def __init__(self, options: Mapping[str, str | bool], patience: Patience) -> None:
        limit = patience.request_seconds
        self._fs = fsspec.filesystem(
            "s3",
            use_listings_cache=False,
            config_kwargs={
                "connect_timeout": min(10.0, limit),
                "read_timeout": limit,
                "retries": {"total_max_attempts": 1, "mode": "standard"},
            },
            **options,
        )
        self._fs.retries = 1
        self._patience = patience

    def info(self, full: str) -> FileInfo:
        bucket, key = _split(full)
        if key:
            try:
                return self._head(bucket, key)
            except FileNotFoundError:
                if not self._any_below(bucket, key):
                    raise
        raise IsADirectoryError(full)

    def exists(self, full: str) -> bool:
        bucket, key = _split(full)
        try:
            self._head(bucket, key)
        except FileNotFoundError:
            return False
        return True

    def require(self, full: str) -> None:
        bucket, key = _split(full)
        if not self._any_below(bucket, key) and key:
            self._head(bucket, key)

    def listing(self, full: str) -> Iterator[tuple[str, FileInfo]]:
        """A page at a time: the whole listing of a million files would take a gigabyte."""
        bucket, key = _split(full)
        nothing = True
        for page in self._pages("list_objects_v2", "ContinuationToken", bucket, f"{key}/" if key else ""):
            for entry in page.get("Contents", ()):
                nothing = False
                if not entry["Key"].endswith("/"):
                    yield f"{bucket}/{entry['Key']}", file_info({**entry, "size": entry["Size"]})
        if nothing and key:
            with suppress(FileNotFoundError):  # it may be one file
                yield full, self._head(bucket, key)

    def folders(self, full: str) -> Iterator[str]:
        bucket, key = _split(full)
        for page in self._pages(
            "list_objects_v2", "ContinuationToken", bucket, f"{key}/" if key else "", Delimiter="/"
        ):
            yield from (f"{bucket}/{entry['Prefix'].rstrip('/')}" for entry in page.get("CommonPrefixes", ()))

    def glob(self, pattern: str) -> dict[str, FileInfo | None]:
        # Of many requests, and of any length.
        found = sync(self._fs.loop, self._persist, pattern, lambda: self._fs._glob(pattern, detail=True), None)
        return {name: None if entry["type"] == "directory" else file_info(entry) for name, entry in found.items()}

    def read(self, full: str) -> bytes:
        blocks: list[bytes] = []
        at, etag = 0, None
        while True:
            block = self._get(full, at, at + PART_BYTES, etag)
            blocks.append(block.data)
            at, etag = at + len(block.data), block.etag
            if at >= block.size:
                return b"".join(blocks)

    def read_spans(self, full: str, spans: Sequence[tuple[int, int]], etag: str | None) -> list[bytes]:
        async def fetch_all() -> list[_Block]:
            return await _gather([lambda s=s, e=e: self._fetch(full, s, e, etag) for s, e in spans], AT_ONCE)  # type: ignore[misc]

        return [block.data for block in sync(self._fs.loop, fetch_all)]

    def open(self, full: str, *, random: bool, etag: str | None) -> IO[bytes]:
        if random:
            known = self.info(full)
            if etag is not None and known.etag != etag:
                raise ChangedError(full)
            return _file(lambda start, end: self._get(full, start, end, known.etag), known.size)
        first = self._get(full, 0, READ_AHEAD, etag)
        return _file(
            lambda start, end: self._get(full, start, end, first.etag), first.size, ahead=READ_AHEAD, held=first.data
        )

    def put(self, full: str, data: bytes, *, exclusive: bool) -> None:
        self._put(full, len(data), lambda start, end: data[start:end], exclusive=exclusive)

    def put_file(self, full: str, made: str, *, exclusive: bool) -> None:
        def piece(start: int, end: int) -> bytes:  # opened anew: an upload that was given up may still be reading
            with open(made, "rb") as file:
                return os.pread(file.fileno(), end - start, start)

        self._put(full, os.path.getsize(made), piece, exclusive=exclusive)

    def delete(self, full: str) -> None:
        sync(self._fs.loop, self._delete, *_split(full))

    def delete_all(self, full: Sequence[str]) -> None:
        """By one request; files that it did not take, and all where the store knows no such request, one by one."""
        bucket = _split(full[0])[0]
        keys = [_split(name)[1] for name in full]
        named = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        try:
            told = self._ask(bucket, lambda: self._fs._call_s3("delete_objects", Bucket=bucket, Delete=named))
            keys = [entry["Key"] for entry in told.get("Errors", ())]
        except OSError as failure:
            if code_of(failure) not in _NO_BULK:
                raise

        async def delete_each() -> None:
            await _gather([lambda k=k: self._delete(bucket, k) for k in keys], AT_ONCE)  # type: ignore[misc]

        sync(self._fs.loop, delete_each)

    def remove_empty(self, full: str) -> None: ...

    def remove_unfinished(self, full: str) -> list[str]:
        """Abort the uploads in parts that were begun below a directory and never ended; they are not seen, and cost."""
        bucket, key = _split(full)
        begun = []
        try:
            for page in self._pages("list_multipart_uploads", "KeyMarker", bucket, f"{key}/" if key else ""):
                begun += [(entry["Key"], entry["UploadId"]) for entry in page.get("Uploads", ())]
        except OSError as failure:
            if code_of(failure) != "NotImplemented":
                raise
        for name, upload in begun:
            with suppress(FileNotFoundError):
                self._ask(full, lambda: self._abort(bucket, name, upload))  # noqa: B023 - called at once
        return [f"{bucket}/{name}" for name, _ in begun]

    def try_upload(self, full: str) -> None:
        """Begin an upload in parts and abort it."""
        bucket, key = _split(full)
        begun = self._ask(full, lambda: self._fs._call_s3("create_multipart_upload", Bucket=bucket, Key=key))
        self._ask(full, lambda: self._abort(bucket, key, begun["UploadId"]))

    def clock(self, full: str) -> datetime | None:
        """The date of an answer."""
        bucket, key = _split(full)
        request = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "MaxKeys": 1}
        answer = self._ask(full, lambda: self._fs._call_s3("list_objects_v2", **request))
        told = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return parsedate_to_datetime(told) if told else None

    def probe(self, full: str) -> Exception | None:
        """What S3 says of the bucket itself: a failed HEAD has no body, hence no reason."""
        try:
            self._any_below(_split(full)[0], "")
        except Exception as failure:
            return failure
        return None

    def _head(self, bucket: str, key: str) -> FileInfo:
        request = {"Bucket": bucket, "Key": key}
        try:
            head = self._ask(f"{bucket}/{key}", lambda: self._fs._call_s3("head_object", **request))
        except OSError as failure:
            if code_of(failure) != "400":
                raise
            self._any_below(bucket, "")  # an answer to HEAD has no body, hence no reason; this one has
            head = self._ask(f"{bucket}/{key}", lambda: self._fs._call_s3("head_object", **request))
        return file_info({**head, "size": head["ContentLength"]})

    def _any_below(self, bucket: str, key: str) -> bool:
        request = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "MaxKeys": 1}
        page = self._ask(bucket, lambda: self._fs._call_s3("list_objects_v2", **request))
        return bool(page.get("Contents"))

    def _pages(self, method: str, marker: str, bucket: str, prefix: str, **more: str) -> Iterator[Mapping[str, Any]]:
        request: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, **more}
        while True:
            page = self._ask(f"{bucket}/{prefix}", lambda: self._fs._call_s3(method, **request))
            yield page
            if not page.get("IsTruncated"):
                return
            request[marker] = page[f"Next{marker}"]
            if marker == "KeyMarker":
                request["UploadIdMarker"] = page["NextUploadIdMarker"]

    def _get(self, full: str, start: int, end: int, etag: str | None) -> _Block:
        block: _Block = sync(self._fs.loop, self._fetch, full, start, end, etag)
        return block

    async def _fetch(self, full: str, start: int, end: int, etag: str | None) -> _Block:
        return await self._persist(full, lambda: self._fetch_once(full, start, end, etag), self._limit(end - start))

    async def _fetch_once(self, full: str, start: int, end: int, etag: str | None) -> _Block:
        bucket, key = _split(full)
        pinned = {"IfMatch": f'"{etag}"'} if etag else {}
        try:
            answer = await self._fs._call_s3(
                "get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}", **pinned
            )
        except OSError as failure:
            if code_of(failure) in ("InvalidRange", "416"):  # it begins behind the end
                return _Block(b"", etag, start)
            if code_of(failure) in ("PreconditionFailed", "412"):
                raise ChangedError(full) from failure
            raise
        try:
            data = await answer["Body"].read()
        finally:
            answer["Body"].close()
        size = len(data)
        if len(data) != answer.get("ContentLength", len(data)):
            raise TruncatedError(f"{len(data)} bytes of {answer['ContentLength']}")
        told = _RANGE.fullmatch(answer.get("ContentRange") or "")
        if told is not None:
            first, last, size = map(int, told.groups())
            if (first, last + 1, len(data)) != (start, min(end, size), last + 1 - first):
                raise TruncatedError(
                    f"bytes {first} to {last}, {len(data)} of them, where {start} to {end - 1} were asked"
                )
        elif answer["ResponseMetadata"]["HTTPStatusCode"] == 200:  # the whole file, from a store that knows no ranges
            data = data[start:end]
        else:
            raise TruncatedError("a part of the file, and the store does not say which")
        found = str(answer.get("ETag", "")).strip('"') or None
        if etag is not None and found is not None and found != etag:  # the condition was passed over
            raise ChangedError(full)
        return _Block(data, found, size)

    def _put(self, full: str, size: int, piece: Callable[[int, int], bytes], *, exclusive: bool) -> None:
        bucket, key = _split(full)
        condition = {"IfNoneMatch": "*"} if exclusive else {}
        try:
            if size < 2 * PART_BYTES:
                request = {"Bucket": bucket, "Key": key, "Body": piece(0, size), **condition}
                self._ask(full, lambda: self._fs._call_s3("put_object", **request), size=size)
            else:
                sync(self._fs.loop, self._put_parts, full, size, piece, condition)
        except OSError as failure:
            if code_of(failure) in ("PreconditionFailed", "412"):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), full) from failure
            raise

    async def _put_parts(
        self, full: str, size: int, piece: Callable[[int, int], bytes], condition: Mapping[str, str]
    ) -> None:
        bucket, key = _split(full)
        place = {"Bucket": bucket, "Key": key}
        limit = self._limit(0)
        begun = await self._persist(full, lambda: self._fs._call_s3("create_multipart_upload", **place), limit)
        upload = begun["UploadId"]

        async def put_part(number: int) -> dict[str, Any]:
            data = piece((number - 1) * PART_BYTES, min(number * PART_BYTES, size))
            request = {**place, "UploadId": upload, "PartNumber": number, "Body": data}
            told = await self._persist(
                full, lambda: self._fs._call_s3("upload_part", **request), self._limit(len(data))
            )
            return {"PartNumber": number, "ETag": told["ETag"]}

        try:
            count = -(-size // PART_BYTES)
            parts = await _gather([lambda n=n: put_part(n) for n in range(1, count + 1)], AT_ONCE // 2)  # type: ignore[misc]
            request = {**place, "UploadId": upload, "MultipartUpload": {"Parts": parts}, **condition}
            try:
                await self._persist(
                    full, lambda: self._fs._call_s3("complete_multipart_upload", **request), self._limit(size)
                )
            except FileNotFoundError:  # the answer to an earlier try was lost
                head = await self._persist(full, lambda: self._fs._call_s3("head_object", **place), limit)
                if head["ContentLength"] != size or not str(head["ETag"]).strip('"').endswith(f"-{count}"):
                    raise
        except BaseException:
            with suppress(Exception):
                await self._persist(full, lambda: self._abort(bucket, key, upload), limit)
            raise

    async def _delete(self, bucket: str, key: str) -> None:
        request = {"Bucket": bucket, "Key": key}
        await self._persist(f"{bucket}/{key}", lambda: self._fs._call_s3("delete_object", **request), self._limit(0))

    async def _abort(self, bucket: str, key: str, upload: str) -> None:
        await self._fs._call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload)

    def _limit(self, size: int) -> float:
        return self._patience.request_seconds + size / SLOWEST

    def _ask(self, full: str, request: Callable[[], Awaitable[T]], *, size: int = 0) -> T:
        """The request's answer. size: bytes that it carries."""
        answer: T = sync(self._fs.loop, self._persist, full, request, self._limit(size))
        return answer

    async def _persist(self, full: str, request: Callable[[], Awaitable[T]], seconds: float | None) -> T:
        """The request's answer; made again, each try within ``seconds``, as long as patience lasts."""
        with suppress(Exception):  # the request says what is wrong
            await self._fs.set_session()  # takes a busy machine seconds, which are none of the store's
        attempts = self._patience.attempts(f"s3://{full}")
        while True:
            try:
                answer = await asyncio.wait_for(request(), seconds)
            except Exception as failure:
                pause = attempts.pause(failure)
                if pause is None:
                    raise
                await asyncio.sleep(pause)
                if cause_of(failure) == "credentials":  # they may have been renewed where they are kept
                    with suppress(Exception):
                        await asyncio.wait_for(self._fs.set_session(refresh=True), seconds)
            else:
                attempts.succeeded()
                return answer


class _File(io.RawIOBase):
    """A file that is fetched range by range.

    ahead: bytes fetched beyond what is asked for; 0 fetches exactly that. held: its first bytes.
    """

    def __init__(self, fetch: Callable[[int, int], _Block], *, size: int, ahead: int, held: bytes = b"") -> None:
        self._fetch = fetch
        self._size = size
        self._ahead = ahead
        self._held, self._held_at = held, 0
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        end = self._size if size is None or size < 0 else min(self._at + size, self._size)
        pieces = []
        while self._at < end:
            offset = self._at - self._held_at
            if not 0 <= offset < len(self._held):
                self._held = self._fetch(self._at, min(max(end, self._at + self._ahead), self._size)).data
                if not self._held:
                    raise TruncatedError(f"nothing at byte {self._at} of {self._size}")
                self._held_at, offset = self._at, 0
            piece = self._held[offset : offset + end - self._at]
            pieces.append(piece)
            self._at += len(piece)
        if not self._ahead:
            self._held = b""
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at


def _file(fetch: Callable[[int, int], _Block], size: int, *, ahead: int = 0, held: bytes = b"") -> IO[bytes]:
    return cast(IO[bytes], _File(fetch, size=size, ahead=ahead, held=held))


async def _gather(works: Sequence[Callable[[], Awaitable[T]]], at_once: int) -> list[T]:
    """All results in order; the first failure cancels the rest, and none is left running."""
    room = asyncio.Semaphore(at_once)

    async def one(work: Callable[[], Awaitable[T]]) -> T:
        async with room:
            return await work()

    tasks = [asyncio.ensure_future(one(work)) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _split(full: str) -> tuple[str, str]:
    bucket, _, key = full.lstrip("/").partition("/")
    return bucket, key
