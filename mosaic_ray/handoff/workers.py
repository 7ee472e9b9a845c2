"""Batches made by the worker processes of PyTorch's DataLoader, in the order in which one process would make them.

The DataLoader asks its workers in turn and hands out their answers in that order, so worker w of n makes the batches
w, w + n, w + 2n, ... Torch is imported here and nowhere else: without workers nothing needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mosaic_ray.errors import MosaicError

T = TypeVar("T")

Make = Callable[[int, int], Iterator[T]]
"""What worker w of n makes: ``make(w, n)``, called in the worker."""


class _Made(IterableDataset[Any]):
    def __init__(self, make: Make[Any]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        assert info is not None
        try:
            yield from self._make(info.id, info.num_workers)
        except MosaicError as error:  # as it is: DataLoader would add the worker's traceback to its words
            yield error


def from_workers(make: Make[T], *, workers: int) -> Iterator[T]:
    """What ``workers`` processes make, in order; raises the MosaicError of a worker.

    The processes start as ``torch.multiprocessing`` is set to start them, and end with the iteration.
    """
    # A generator of its own: without one, DataLoader draws from the global one, and the number of workers would
    # change every random number that the training draws.
    loader: DataLoader[Any] = DataLoader(
        _Made(make), batch_size=None, num_workers=workers, collate_fn=_same, generator=torch.Generator()
    )
    for item in loader:
        if isinstance(item, MosaicError):
            raise item
        yield item


def _same(item: Any) -> Any:
    return item
