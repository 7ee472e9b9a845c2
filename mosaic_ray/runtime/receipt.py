"""What a task leaves behind to say that it is done."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson

from mosaic_ray.fingerprint import canonical_json
from mosaic_ray.runtime.stats import Totals

RECEIPTS: Final = "_mosaic/receipts"


def receipt_path(task: int) -> str:
    return f"{RECEIPTS}/task-{task:05d}.json"


def rejects_path(task: int) -> str:
    return f"rejects/task-{task:05d}.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a task did; once it is in place the task is done and never runs again.

    run: fingerprint of the run that the task belongs to.
    inputs: file name, first row and end row (exclusive) of every stretch it read.
    records: usable and rejected; ``whole`` were passed through, ``trimmed`` cut to their first turn, ``escaped`` had
        control tokens disarmed or taken out.
    rejects: number by reason.
    parts: one a epoch: name, rows, tokens, bytes, sha256, content_digest, and the :class:`Totals` of it.
    rejects_part: the same of the file of rejects, or None where there are none.
    seconds: of reading and counting, composing, writing.
    whole_because: why texts were counted whole rather than by pieces, which is slower; None where they were not.
    retries: requests to a store that were made again, by cause.
    read_bytes: what its worker read from stores for it; 0 in receipts of before this was counted.
    """

    task: int
    run: str
    inputs: list[tuple[str, int, int]]
    records: int
    whole: int
    trimmed: int
    escaped: int
    rejects: dict[str, int]
    parts: list[dict[str, Any]]
    rejects_part: dict[str, Any] | None
    seconds: dict[str, float] = field(default_factory=dict)
    whole_because: str | None = None
    retries: dict[str, int] = field(default_factory=dict)
    read_bytes: int = 0

    @property
    def rejected(self) -> int:
        return sum(self.rejects.values())

    def to_json(self) -> bytes:
        return canonical_json(asdict(self)).encode("utf-8")

    @classmethod
    def from_json(cls, data: bytes) -> Receipt:
        """Raises ValueError where the bytes are not a receipt."""
        try:
            receipt = cls(**orjson.loads(data))
            for part in receipt.parts:
                Totals().merge(part["totals"])
            for part in (*receipt.parts, *filter(None, [receipt.rejects_part])):
                _ = part["name"], part["rows"], part["bytes"], part["sha256"], part["content_digest"]
        except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a receipt: {error}") from error
        return receipt
