"""What ``mosaic_ray.load`` is given, checked: a refusal names the argument, its value and what it may be."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, Final, get_args

from mosaic_ray.errors import SettingsError
from mosaic_ray.handoff.partition import Remainder, Share


def whole_number(name: str, value: Any) -> int:
    """As an int, which a state can keep: numpy's and torch's whole numbers are taken too."""
    try:
        return operator.index(value)
    except TypeError:
        raise SettingsError(f"{name} {value!r}: a whole number is wanted, not {type(value).__name__}") from None


def names(argument: str, value: Any, *, of: str) -> tuple[str, ...]:
    """A list of texts; a text alone is refused, which Python would take for the list of its letters."""
    if isinstance(value, str | bytes | os.PathLike) or not isinstance(value, Iterable):
        raise SettingsError(f"{argument}={value!r}: a list of {of} is wanted, as {argument}=[{str(value)!r}]")
    return tuple(os.fspath(name) if isinstance(name, os.PathLike) else name for name in value)


def column_names_of(columns: Any) -> tuple[str, ...] | None:
    wanted = None if columns is None else names("columns", columns, of="names")
    if wanted == ():
        raise SettingsError("columns=[]: a batch without columns; name some, or leave it out to read all")
    return wanted


def share_of(*, rank: Any, world_size: Any, batch_size: Any, remainder: Remainder) -> Share:
    """The share of this process: what is not given comes from RANK and WORLD_SIZE, as torchrun sets them."""
    place, count = _among(rank, world_size)
    size = whole_number("batch_size", batch_size)
    share = Share(rank=place, world_size=count, batch_size=size, remainder=remainder)
    if share.batch_size < 1:
        raise SettingsError(f"batch_size {share.batch_size}: the samples of a batch on each rank, 1 or more")
    if remainder not in get_args(Remainder):
        raise SettingsError(f"remainder {remainder!r}: one of {', '.join(get_args(Remainder))}")
    return share


def check_reading(num_workers: int, *, cache: object, inputs: object, materialize: bool) -> None:
    """What is read, and by whom."""
    if num_workers < 0:
        raise SettingsError(f"num_workers {num_workers}: 0 or more")
    if num_workers and find_spec("torch") is None:
        raise SettingsError(
            f"num_workers {num_workers}: processes that read ahead need PyTorch, which is not installed. Install it "
            "(pip install 'mosaic_ray[train]'), or give num_workers=0"
        )
    if cache is not None and not materialize:
        raise SettingsError("cache: with materialize=False no parts are read that could be kept; leave it out")
    if inputs and materialize:
        raise SettingsError("inputs: read only to compose, with materialize=False; give that too, or leave it out")


def _among(rank: Any, world_size: Any) -> tuple[int, int]:
    """The rank of this process, and the number of them; alone where nothing says otherwise."""
    place, count = _known("rank", rank, "RANK"), _known("world_size", world_size, "WORLD_SIZE")
    if count is not None and count < 1:
        raise SettingsError(f"world_size {count}: the number of processes that train, 1 or more")
    if place is None and (count or 1) > 1:
        raise SettingsError(f"world_size {count}, but no rank: every process would load the share of rank 0. {_BOTH}")
    if count is None and place:
        raise SettingsError(f"rank {place}, but no world_size: the share of a rank depends on their number. {_BOTH}")
    place, count = place or 0, count or 1
    if not 0 <= place < count:
        raise SettingsError(
            f"rank {place} of world_size {count}: ranks count from 0 to {count - 1}. Give both, or neither under "
            "torchrun"
        )
    return place, count


_BOTH: Final = (
    "Give both, or neither under torchrun, which sets RANK and WORLD_SIZE; under srun they are "
    "int(os.environ['SLURM_PROCID']) and int(os.environ['SLURM_NTASKS'])"
)


def _known(name: str, given: Any, variable: str) -> int | None:
    if given is not None:
        return whole_number(name, given)
    text = os.environ.get(variable)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise SettingsError(
            f"{variable}={text!r} of the environment is no number; correct it, or give {name}"
        ) from None
