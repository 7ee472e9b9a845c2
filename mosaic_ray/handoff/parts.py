"""Reading the parts of an epoch: whole, in one request each, held against the manifest, and kept if wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mosaic_ray.errors import InputError, VerificationError
from mosaic_ray.handoff.dataset import DataSet, Part
from mosaic_ray.handoff.partition import Ints
from mosaic_ray.io.storage import Storage


@dataclass(frozen=True, kw_only=True)
class PartBlocks:
    """The parts of one epoch as blocks.

    cache: where parts are kept under their SHA-256 once they are read; None keeps none. Nothing is ever deleted there.
    columns: the columns to read; None reads all.
    remedy: what makes a part again that is lost or damaged.
    """

    parts: Sequence[Part]
    storage: Storage
    cache: Storage | None
    columns: Sequence[str] | None
    remedy: str

    @property
    def count(self) -> int:
        return len(self.parts)

    @property
    def sizes(self) -> Ints:
        return np.array([part.rows for part in self.parts], dtype=np.int64)

    def read(self, block: int) -> pa.Table:
        """Raises VerificationError where the part is missing or is not what the manifest states."""
        part = self.parts[block]
        try:
            # Not pq.read_table: the threads of the dataset reader can abort a process that is ending.
            file = pq.ParquetFile(pa.BufferReader(self._bytes(part)))
            table = file.read(columns=self.columns, use_threads=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._wrong(part, f"not a readable Parquet file ({error})") from error
        if table.num_rows != part.rows:
            raise self._wrong(part, f"{table.num_rows} rows, {part.rows} in the manifest")
        return table.combine_chunks()

    def _bytes(self, part: Part) -> bytes:
        name = f"{part.sha256}.parquet"
        if self.cache is not None and self.cache.exists(name):
            kept = self.cache.read(name)
            if _is(part, kept):
                return kept
        data = self._fetched(part)
        if len(data) != part.bytes:
            raise self._wrong(part, f"{'more' if len(data) > part.bytes else 'less'} than its {part.bytes} bytes")
        if not _is(part, data):
            raise self._wrong(part, "its sha256 is not the manifest's")
        if self.cache is not None:
            self.cache.publish(name, data)
        return data

    def _fetched(self, part: Part) -> bytes:
        try:
            # As a range, because the whole of a file costs s3fs a second request for its size. One byte more than
            # there should be shows a file that is too long.
            return self.storage.read_ranges(part.name, [(0, part.bytes + 1)])[0]
        except InputError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            raise self._wrong(part, "missing, though the manifest lists it") from error

    def _wrong(self, part: Part, problem: str) -> VerificationError:
        return VerificationError(f"{self.storage.uri(part.name)}: {problem}. {self.remedy}")


def _is(part: Part, data: bytes) -> bool:
    return len(data) == part.bytes and hashlib.sha256(data).hexdigest() == part.sha256


def column_names(dataset: DataSet) -> list[str]:
    """The columns of a data set, read from the end of one of its parts."""
    part = dataset.epochs[0][0]
    try:
        with dataset.storage.open_random(part.name) as file:
            return list(pq.read_schema(file).names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise VerificationError(f"{dataset.storage.uri(part.name)}: not a readable Parquet file ({error})") from error
