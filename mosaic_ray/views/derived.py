"""Views made of a text view, part by part: another text view, token ids, or token ids packed into sequences.

All are pure functions of a table of samples. Row groups of one part never mix with those of another, so a part of a
view can be made again by itself.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mosaic_ray.config import TOKEN_VIEWS, ViewSpec
from mosaic_ray.errors import TaskError, TokenizerError
from mosaic_ray.packing import pack
from mosaic_ray.tokens import TokenizerSpec
from mosaic_ray.tokens.pieces import Ids
from mosaic_ray.tokens.trained import CHECK_EVERY, TokenRow, TokenRows
from mosaic_ray.views.text import LINEAGE, ViewSchema

_IDS: Final = pa.list_(pa.field("item", pa.int32(), nullable=False))
_MASK: Final = pa.list_(pa.field("item", pa.int8(), nullable=False))

TOKENIZED: Final = pa.schema(
    [
        pa.field("input_ids", _IDS, nullable=False),
        pa.field("attention_mask", _MASK, nullable=False),
        pa.field("labels", _IDS, nullable=False),
    ]
)
PACKED: Final = pa.schema(
    [pa.field(name, _IDS, nullable=False) for name in ("input_ids", "labels", "position_ids", "seq_lengths")]
)

LEFT_OUT: Final = {
    "not_in_view": "a conversation of several turns, which the view has no place for",
    "no_trained_token": "no token of it would be trained",
}
"""Why a sample may have no row in a view."""


@dataclass(slots=True, kw_only=True)
class Derived:
    """A part of a view, and what there is to say of it.

    origins: of each row, the samples it holds, by their place in the table it was made of.
    tokens: of its rows; None where a view has none. trained: those with loss.
    left_out: samples without a row, by their reason in :data:`LEFT_OUT`. packing: seconds that it took to pack.
    """

    table: pa.Table
    origins: list[list[int]]
    tokens: int | None = None
    trained: int | None = None
    packing: float = 0.0
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def samples(self) -> int:
        """Number of samples that have a place in it."""
        return sum(map(len, self.origins))


class DerivedView(Protocol):
    """Makes a view of tables of samples; one a worker, where it keeps the tokenizer."""

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def ends_turn(self) -> str | None:
        """The token that is trained to end a turn; None where there is none."""
        ...

    def make(self, table: pa.Table) -> Derived:
        """The rows of a view. table: samples in the text view that it is made of.

        Raises TokenizerError where a chat template hides what is trained, SettingsError where a sample is longer than
        a sequence, TaskError where the ids are not as many as were counted.
        """
        ...


def derived_view(
    spec: ViewSpec, *, source: ViewSchema, tokenizer: TokenizerSpec, check_all: bool = False
) -> DerivedView:
    """The view of this name, of samples that stand in the text view ``source``.

    check_all: see :class:`Tokenized`.

    Raises TokenizerError where the chat template hides which tokens are trained.
    """
    if spec.view not in TOKEN_VIEWS:
        return TextOfText(source, ViewSchema(spec.text_view, source.chat))
    tokens = Tokenized(source, tokenizer, check_all=check_all)
    return tokens if spec.sequence_length is None else Packed(tokens, spec.sequence_length)


@dataclass(frozen=True)
class TextOfText:
    """The same samples in other text columns, their lineage as it was."""

    source: ViewSchema
    target: ViewSchema
    ends_turn: None = None

    @property
    def schema(self) -> pa.Schema:
        return self.target.schema

    def make(self, table: pa.Table) -> Derived:
        conversations = self.source.conversations(table)
        held = [self.target.holds(messages) for messages in conversations]
        kept = table.filter(pa.array(held, pa.bool_()))
        texts = self.target.arrays([messages for messages, there in zip(conversations, held, strict=True) if there])
        lineage = [kept[name].combine_chunks() for name in (column.name for column in LINEAGE)]
        return Derived(
            table=pa.Table.from_arrays([*texts, *lineage], schema=self.schema),
            origins=[[place] for place, there in enumerate(held) if there],
            left_out=Counter(["not_in_view"] * held.count(False)),
        )


class Tokenized:
    """One row a sample: ``input_ids``, ``attention_mask`` and ``labels``, as ``transformers`` names them.

    check_all: take ids of whole texts only, and decode every row to check its labels, not one of CHECK_EVERY.
    """

    schema = TOKENIZED

    def __init__(self, source: ViewSchema, tokenizer: TokenizerSpec, *, check_all: bool = False) -> None:
        self.check_all = check_all
        self._source = source
        self._rows = TokenRows(tokenizer, by_pieces=not check_all)
        self.ends_turn = self._rows.ends_turn

    def make(self, table: pa.Table) -> Derived:
        rows, places, left_out = self.rows(table)
        ids = _lists([row.input_ids for row in rows])
        mask = pa.ListArray.from_arrays(ids.offsets, pa.array(np.ones(len(ids.values), np.int8)), type=_MASK)
        made = pa.Table.from_arrays([ids, mask, _lists([row.labels for row in rows])], schema=TOKENIZED)
        return _derived(made, rows, [[place] for place in places], left_out)

    def rows(self, table: pa.Table) -> tuple[list[TokenRow], list[int], Counter[str]]:
        """The token rows of samples, the place of each in the table, and why some have none."""
        conversations = self._source.conversations(table)
        names, counts = table["mosaic_id"].to_pylist(), table["token_count"].to_pylist()
        kept: list[TokenRow] = []
        places: list[int] = []
        left_out: Counter[str] = Counter()
        rows = self._rows.make(conversations)
        for number, (name, count, row) in enumerate(zip(names, counts, rows, strict=True)):
            if row.counted != count:
                raise TaskError(
                    f"{name}: {row.counted} tokens, where the data set states {count}, so the tokenizer is not that of "
                    "the run, or the part is damaged. Run `mosaic-ray verify` on the data set"
                )
            if not row.trained:
                left_out["no_trained_token"] += 1
                continue
            if self.check_all or number % CHECK_EVERY == 0:
                problem = self._rows.misplaced(conversations[number], row)
                if problem is not None:
                    raise TokenizerError(
                        f"{name}: {problem}. The chat template leaves too little between the texts to tell their "
                        "tokens apart. Train on the view messages, or give another --chat-template"
                    )
            kept.append(row)
            places.append(number)
        return kept, places, left_out


class Packed:
    """Whole samples behind one another in sequences of at most ``sequence_length`` tokens, best fit first.

    ``input_ids``, ``labels``, and what keeps the samples of a row apart: ``position_ids``, which begin again at 0 with
    each (``transformers``' and Flash Attention's padding-free form), and ``seq_lengths``, the tokens of each (TRL's).
    """

    schema = PACKED

    def __init__(self, tokens: Tokenized, sequence_length: int) -> None:
        self._tokens = tokens
        self._length = sequence_length
        self.ends_turn = tokens.ends_turn

    def make(self, table: pa.Table) -> Derived:
        rows, places, left_out = self._tokens.rows(table)
        lengths = np.array([len(row.input_ids) for row in rows], dtype=np.int32)
        started = time.perf_counter()
        bins = pack(lengths, self._length)
        seconds = time.perf_counter() - started
        columns = [
            _lists([_joined([rows[i].input_ids for i in members]) for members in bins]),
            _lists([_joined([rows[i].labels for i in members]) for members in bins]),
            _lists([_joined([np.arange(lengths[i], dtype=np.int32) for i in members]) for members in bins]),
            _lists([lengths[members] for members in bins]),
        ]
        origins = [[places[i] for i in members] for members in bins]
        made = _derived(pa.Table.from_arrays(columns, schema=PACKED), rows, origins, left_out)
        return replace(made, packing=seconds)


def _derived(table: pa.Table, rows: Sequence[TokenRow], origins: list[list[int]], left_out: Counter[str]) -> Derived:
    return Derived(
        table=table,
        origins=origins,
        tokens=sum([len(row.input_ids) for row in rows]),
        trained=sum([row.trained for row in rows]),
        left_out=left_out,
    )


def _lists(rows: Sequence[Ids]) -> pa.ListArray:
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(_joined(rows)), type=_IDS)


def _joined(rows: Sequence[npt.NDArray[np.int32]]) -> Ids:
    return np.concatenate(rows) if len(rows) else np.empty(0, np.int32)
