from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.errors import InputError
from mosaic_ray.io.storage import Storage
from mosaic_ray.io.streams import chunks
from mosaic_ray.io.unpacking import BLOCK, unpacked

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
}
SKIPPABLE = b"\x50\x2a\x4d\x18" + (8).to_bytes(4, "little") + b"whatever"


def content(data: bytes, kind: Any, size: int = 1 << 20) -> bytes:
    return b"".join(unpacked((data[at : at + size] for at in range(0, len(data), size)), kind, "f"))


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("parts", [[b"a" * 3_000_000], [b"one\n", b"", b"two\n"], [b""]])
def test_packed_files_are_read_across_members_and_frames(tmp_path: Path, kind: Any, parts: list[bytes]) -> None:
    (tmp_path / "f").write_bytes(b"".join(map(PACKED[kind], parts)))
    assert b"".join(chunks(Storage.at(str(tmp_path), error=InputError), "f", kind)) == b"".join(parts)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5), st.sampled_from(sorted(PACKED)), st.integers(4, 90))
def test_the_content_does_not_depend_on_how_the_file_arrives(parts: list[bytes], kind: str, size: int) -> None:
    assert content(b"".join(map(PACKED[kind], parts)), kind, size) == b"".join(parts)


def test_padding_and_skippable_frames_are_skipped() -> None:
    assert content(gzip.compress(b"one", mtime=0) + bytes(3_000_000), "gzip") == b"one"
    assert content(SKIPPABLE + zstandard.compress(b"one") + SKIPPABLE, "zstd") == b"one"


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("cut", [1, 4, 1000])
def test_a_packed_file_that_is_cut_off(kind: str, cut: int) -> None:
    whole = PACKED[kind](random.Random(1).randbytes(100_000))
    with pytest.raises(InputError) as failure:
        content(whole[:-cut], kind)
    message = str(failure.value)
    assert message.startswith(f"f: the {kind} data is cut off at byte {len(whole) - cut} (")
    assert "copy the file again, or leave it out" in message


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_file_that_is_damaged(kind: str) -> None:
    whole = bytearray(PACKED[kind](json.dumps(list(range(100_000))).encode()))
    whole[len(whole) // 2 : len(whole) // 2 + 50] = bytes(50)
    with pytest.raises(InputError, match=rf"^f: the {kind} data is damaged near byte \d+ \(.*; \d+ bytes .* copy the"):
        content(bytes(whole), kind)


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("data", [b"{}", b"\x00"])
def test_a_name_that_promises_packing(kind: str, data: bytes) -> None:
    with pytest.raises(InputError, match=f"^f: this is not packed with {kind}; correct its name"):
        content(data, kind)


@pytest.mark.parametrize("kind", PACKED)
def test_an_empty_packed_file_is_cut_off(kind: str) -> None:
    with pytest.raises(InputError, match=f"the {kind} data is cut off at byte 0"):
        content(b"", kind)


def test_a_frame_packed_with_a_dictionary_is_refused_with_the_reason() -> None:
    trained = zstandard.train_dictionary(4096, [f"record number {n} of many".encode() * 9 for n in range(2000)])
    packed = zstandard.ZstdCompressor(dict_data=trained).compress(b"record number 5 of many" * 9)
    with pytest.raises(InputError, match=r"^f: the zstd data is damaged near byte 0 \(.*[Dd]ictionary"):
        content(packed, "zstd")


@pytest.mark.parametrize("log", [28, 31])
def test_a_window_of_gigabytes_is_refused_with_the_limit(log: int) -> None:
    packer = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=log, write_content_size=False)
    ).compressobj()
    packed = packer.compress(b"text\n" * 100) + packer.flush()
    with pytest.raises(
        InputError, match=r"^f: the zstd data near byte 0 needs a window of more than 128 MiB, .*--long=27"
    ):
        content(packed, "zstd")


def test_the_longest_window_without_options_is_taken() -> None:
    packer = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    ).compressobj()
    assert content(packer.compress(b"text\n" * 100) + packer.flush(), "zstd") == b"text\n" * 100


@pytest.mark.parametrize("kind", PACKED)
def test_a_bomb_comes_in_blocks_and_only_as_far_as_it_is_read(kind: Any) -> None:
    read = 0
    member = PACKED[kind](bytes(1 << 23))

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield member

    blocks = unpacked(endless(), kind, "f")
    assert {len(next(blocks)) for _ in range(100)} == {BLOCK}
    assert read <= 15


@pytest.mark.parametrize("kind", PACKED)
def test_members_of_one_byte_come_in_blocks_too(kind: Any) -> None:
    assert [len(block) for block in unpacked(iter([PACKED[kind](b" ") * 20_000]), kind, "f")] == [20_000]
