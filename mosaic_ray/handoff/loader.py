"""``mosaic_ray.load``: a data set as the stream of batches of one rank.

Built on PyTorch's DataLoader, pyarrow and :class:`mosaic_ray.io.storage.Storage`, because what stands ready makes the
position in the data depend on the shape of the job:

- ``datasets.IterableDataset`` keeps a state of shards for each rank, so another number of ranks cannot take it up, and
  what was in its shuffle buffer is lost on resuming (its ``state_dict`` says so). ``split_dataset_by_node`` deals whole
  shards where their number allows it, and ranks with unequal numbers of rows wait for each other without end.
- ``torchdata``'s StatefulDataLoader keeps a state for each worker, and asserts that as many workers take it up.

Here the state is one number, the same on every rank (:mod:`.partition`). It is saved and loaded by ``state_dict`` and
``load_state_dict``, the protocol ``Stateful`` of torchdata and of ``torch.distributed.checkpoint``.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from mosaic_ray.errors import SettingsError, StorageError
from mosaic_ray.handoff.arguments import check_reading, column_names_of, names, share_of, whole_number
from mosaic_ray.handoff.dataset import DataSet, making, open_dataset
from mosaic_ray.handoff.partition import Remainder, Share, Shuffle
from mosaic_ray.handoff.parts import PartBlocks, column_names
from mosaic_ray.handoff.stream import Blocks, Cursor, Row, batches, open_epoch, too_few
from mosaic_ray.io.storage import Storage

STATE_VERSION: Final = 1

Collate = Callable[[list[Row]], Any]


class Source(Protocol):
    """Where the epochs come from."""

    def blocks(self, epoch: int) -> Blocks: ...


class _Place(NamedTuple):
    """Where an iteration stands: ``position`` samples of the epoch were handed out, over all ranks."""

    epoch: int = 0
    position: int = 0
    cursor: Cursor = Cursor()


class _Handed(NamedTuple):
    batch: Any
    place: _Place


@dataclass(frozen=True, kw_only=True)
class _Parts:
    dataset: DataSet
    cache: Storage | None
    columns: Sequence[str] | None

    def blocks(self, epoch: int) -> Blocks:
        made_by = "`mosaic-ray view`" if self.dataset.derived else "`mosaic-ray run`"
        return PartBlocks(
            parts=self.dataset.parts(epoch),
            storage=self.dataset.storage,
            cache=self.cache,
            columns=self.columns,
            remedy=f"The {made_by} command that made it makes again what is missing; delete the part first if it is "
            "damaged",
        )


@dataclass(frozen=True, kw_only=True)
class _Composed:
    dataset: DataSet
    composer: Any

    def blocks(self, epoch: int) -> Blocks:
        from mosaic_ray.handoff.compose import ComposedBlocks

        held = epoch < len(self.dataset.epochs)
        return ComposedBlocks(composer=self.composer, epoch=epoch, parts=self.dataset.epochs[epoch] if held else None)


class Loader:
    """The batches of one rank, epoch after epoch; made by :func:`load`.

    One iteration is one epoch, and when it has run to its end the next one is the next epoch. An iteration begins at
    the start of its epoch, or where a loaded state stands; one that was left early begins there again.

    dataset: what is loaded. share: this rank's part of it. epoch: that of the next iteration.
    """

    def __init__(
        self,
        dataset: DataSet,
        source: Source,
        share: Share,
        *,
        seed: int,
        shuffle: bool,
        num_workers: int,
        collate_fn: Collate | None,
        materialize: bool,
    ) -> None:
        self.dataset = dataset
        self.share = share
        self._source = source
        self._seed = seed
        self._shuffle = shuffle
        self._workers = num_workers
        self._collate = collate_fn
        self._materialize = materialize
        self._start = self._place = _Place()
        self._newest: object = None

    @property
    def epoch(self) -> int:
        return self._start.epoch

    def __iter__(self) -> Iterator[Any]:
        start = self._place = self._start
        mine = self._newest = object()
        make = partial(
            _handed,
            self._source.blocks(start.epoch),
            Shuffle(self._seed, start.epoch, self._shuffle),
            self.dataset.lanes,
            self.share,
            start,
            self._collate,
        )
        if self._workers:
            from mosaic_ray.handoff.workers import from_workers

            made = from_workers(make, workers=self._workers)
        else:
            made = make(0, 1)
        for batch, place in made:
            if self._newest is mine:  # else a later iteration, or a loaded state, is what counts
                self._place = place
            yield batch
        if self._newest is mine:
            self._start = self._place = _Place(start.epoch + 1)

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on every rank.

        Raises TypeError for an epoch composed on the fly beyond those of the data set: that shows as it is composed.
        """
        sizes = self._source.blocks(self._start.epoch).sizes
        if sizes is None:
            raise TypeError(f"epoch {self._start.epoch} is composed on the fly, so its length is not known before")
        return self.share.batches(int(sizes.sum()))

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be of this epoch, as of a ``DistributedSampler``.

        The epoch that the loader stands in anyway stays where it is, so a loop that resumes may set it.
        """
        epoch = whole_number("epoch", epoch)
        if epoch < 0:
            raise SettingsError(f"epoch {epoch}: epochs count from 0")
        if epoch != self._start.epoch:
            self._start = self._place = _Place(epoch)
            self._newest = None

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands after the batches handed out so far; equal on every rank, whole numbers and texts.

        After the last batch of an epoch, while the loop still runs, it stands at the end of that epoch: resumed there,
        an iteration is empty, and the one after it is the next epoch.
        """
        epoch, position, cursor = self._place
        return {
            "version": STATE_VERSION,
            **self._identity(),
            "epoch": epoch,
            "position": position,
            "block_turn": cursor.turn,
            "block_start": cursor.start,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on where ``state`` was taken, with any number of ranks, workers, any batch size.

        Raises SettingsError for the state of another data set, seed or order, and for a place that none can have.
        """
        try:
            version = state["version"]
            epoch, position, turn, start = (
                operator.index(state[name]) for name in ("epoch", "position", "block_turn", "block_start")
            )
            theirs = {name: state[name] for name in self._identity()}
        except (KeyError, TypeError) as error:
            raise _no_state(repr(error)) from error
        if version != STATE_VERSION:
            raise SettingsError(
                f"state of version {version}, where this version of mosaic_ray reads {STATE_VERSION}. Resume with the "
                "version that saved it"
            )
        mine = self._identity()
        if epoch < len(self.dataset.epochs):
            mine["materialize"] = theirs["materialize"]  # these are the same epochs either way
        if differences := [
            f"{name} {theirs[name]} there, {mine[name]} here" for name in mine if theirs[name] != mine[name]
        ]:
            raise SettingsError(
                f"{self.dataset.storage.uri()}: the state is of another stream: {'; '.join(differences)}. Load what it "
                "was saved with, or begin anew without it"
            )
        place = _Place(epoch, position, Cursor(turn, start))
        self._check_place(place)
        self._start = self._place = place
        self._newest = None

    def _check_place(self, place: _Place) -> None:
        epoch, position, (turn, start) = place
        if epoch < 0 or position < 0:
            raise _no_state(f"epoch {epoch}, position {position}: both count from 0")
        blocks = self._source.blocks(epoch)
        if not (0 <= turn <= blocks.count and 0 <= start <= position):
            raise _no_state(f"position {position} in the block of turn {turn}, which begins at {start}")
        # The last round may be filled up beyond the end, by fewer samples than it has ranks, which are at most all.
        if blocks.sizes is not None and position >= 2 * (total := int(blocks.sizes.sum())):
            raise _no_state(f"position {position} of epoch {epoch}, which has {total} samples")

    def _identity(self) -> dict[str, Any]:
        """All that decides the stream."""
        return {
            "dataset_digest": self.dataset.digest,
            "lanes": self.dataset.lanes,
            "seed": self._seed,
            "shuffle": self._shuffle,
            "materialize": self._materialize,
        }


def _no_state(problem: str) -> SettingsError:
    return SettingsError(f"not a state of this loader ({problem}). Give what its state_dict() returned")


def _handed(
    blocks: Blocks,
    shuffle: Shuffle,
    lanes: int,
    share: Share,
    start: _Place,
    collate: Collate | None,
    worker: int,
    workers: int,
) -> Iterator[_Handed]:
    """The batches of worker ``worker`` of ``workers``; runs where they are read."""
    epoch = open_epoch(blocks, shuffle, lanes=lanes, cursor=start.cursor)
    for rows, position, cursor in batches(epoch, share, start=start.position, worker=worker, workers=workers):
        yield _Handed(rows if collate is None else collate(rows), _Place(start.epoch, position, cursor))


def load(
    manifest: str | os.PathLike[str],
    *,
    batch_size: int,
    rank: int | None = None,
    world_size: int | None = None,
    seed: int = 0,
    shuffle: bool = True,
    remainder: Remainder = "drop",
    num_workers: int = 0,
    collate_fn: Collate | None = None,
    columns: Sequence[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    tokenizer: Any = None,
    digest: str | None = None,
    view: str | None = None,
    materialize: bool = True,
    inputs: Sequence[str | os.PathLike[str]] = (),
    storage_options: Mapping[str, str | bool] | None = None,
) -> Loader:
    """Load a data set for one rank of a training job.

    In an epoch every sample is in one batch of one rank, and all ranks have equally many. Epoch e is the e-th tiling of
    the corpus that the data set holds; after the last comes the first again, in another order. The order depends on
    ``seed`` and the data set alone.

    manifest: address of ``manifest.json``, or of the directory that holds it, on any fsspec URL: of a data set, or of
        one of its views.
    batch_size: samples of a batch on each rank; rows of packed sequences in the view ``packed``.
    rank, world_size: this process among those that train; else from RANK and WORLD_SIZE, as torchrun sets them, else
        one process alone. A number of ranks needs the rank.
    shuffle: False keeps parts and rows in the order in which they are written (one stretch of it for each rank that
        the data set was laid out for).
    remainder: what becomes of fewer samples than ranks at the end of an epoch: ``drop`` leaves them out, ``repeat``
        fills up with the first of the epoch.
    num_workers: processes that read ahead and collate; 0 does it in this one, and needs no torch. The stream is the
        same for any number.
    collate_fn: makes a batch of a list of rows, each a dict by column; None hands out the list.
    columns: only these.
    cache: a directory where parts are kept once they are read; nothing is ever deleted there.
    tokenizer: that of the trainer (of ``transformers``, or its name or directory), to be checked; it may have a padding
        token of its own.
    digest: the dataset_digest that is expected.
    view: a view of the data set by name, such as ``tokenized`` or ``packed-4096``; ``packed`` where it is there in one
        length.
    materialize: False composes each epoch anew, from the run kept in the data set and its input, instead of reading
        the parts. Epochs that the data set holds are the same either way, and after them come ever new ones. Then the
        work of composing is done by every rank (of an epoch that the data set holds, by each for its share), and by
        every worker of it, so more than one is of no use.
    inputs: with materialize=False, every input of the run where it is now, if it has moved.
    storage_options: of the file system, such as ``endpoint_url``; no credentials.

    Raises SettingsError for a value that cannot be, VerificationError where there is no finished data set, where it is
    damaged, or where a view is of what lay there before, InputError where the store cannot be read, DriftError where
    an input to compose has changed. While iterating: VerificationError for a part that is missing or damaged.
    """
    share = share_of(rank=rank, world_size=world_size, batch_size=batch_size, remainder=remainder)
    seed, num_workers = whole_number("seed", seed), whole_number("num_workers", num_workers)
    wanted = column_names_of(columns)
    moved = names("inputs", inputs, of="addresses")
    check_reading(num_workers, cache=cache, inputs=moved, materialize=materialize)
    dataset = open_dataset(manifest, view=view, digest=digest, options=storage_options)
    for parts in dataset.epochs:
        if (total := sum(part.rows for part in parts)) < share.world_size:
            raise too_few(total, share)
    if tokenizer is not None:
        from mosaic_ray.handoff.tokenizer import check_tokenizer

        check_tokenizer(tokenizer, dataset.tokenizer)
    source: Source
    if materialize:
        kept = None if cache is None else Storage.at(os.fspath(cache), error=StorageError)
        there = column_names(dataset) if wanted is not None else []
        source = _Parts(dataset=dataset, cache=kept, columns=wanted)
    else:
        from mosaic_ray.handoff.compose import composer_of

        composer = composer_of(dataset, inputs=moved)
        there = composer.column_names() if wanted is not None else []
        source = _Composed(dataset=dataset, composer=replace(composer, columns=wanted))
    for name in wanted or ():
        if name not in there:
            raise _no_column(dataset, name, there)
    return Loader(
        dataset,
        source,
        share,
        seed=seed,
        shuffle=shuffle,
        num_workers=num_workers,
        collate_fn=collate_fn,
        materialize=materialize,
    )


def _no_column(dataset: DataSet, name: str, there: Sequence[str]) -> SettingsError:
    views = ", ".join(dataset.views())
    return SettingsError(
        f"columns: the view {dataset.view.name} of {dataset.root.uri()} has no column {name!r}, only "
        f"{', '.join(there)}. {f'Other views there: {views}' if views else 'There are no other views'}. "
        f"{making(dataset.root)}"
    )
