"""Random numbers keyed by names: ``Key(seed, "epoch", 3).child("sample", 17).draw()``.

A key is a path of names, never a sum of integers, so that no two uses share a stream and a stream does not depend on
which worker asks for it. The digest of the path seeds Python's Mersenne Twister, and every draw is made from its
``random()`` alone: that sequence is the one that Python promises to keep (``random`` module, "Notes on
Reproducibility"), while ``shuffle``, ``sample`` and numpy's ``Generator`` methods may change between releases.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
Name = str | int


class Draw:
    """One stream of random numbers; made by :meth:`Key.draw`."""

    __slots__ = ("_random",)

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random

    def ahead(self, n: int) -> Draw:
        """The next n numbers as a stream of their own, so that what is drawn after them does not depend on their use.

        Raises StopIteration for more than n.
        """
        draw = self._random
        return Draw(iter([draw() for _ in range(n)]).__next__)

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return self._random()

    def below(self, n: int) -> int:
        """A whole number in [0, n); its bias is below n / 2**53."""
        return int(self._random() * n)

    def choice(self, options: Sequence[T]) -> T:
        return options[int(self._random() * len(options))]

    def chance(self) -> bool:
        """True half of the time."""
        return self._random() < 0.5

    def shuffle(self, n: int) -> list[int]:
        """A permutation of range(n), by Fisher and Yates."""
        order = list(range(n))
        draw = self._random
        for i in range(n - 1, 0, -1):
            j = int(draw() * (i + 1))
            order[i], order[j] = order[j], order[i]
        return order

    def exponential(self) -> float:
        """Scale 1."""
        return -math.log1p(-self._random())

    def pareto(self) -> float:
        """Shape 1, less 1 (Lomax): values from 0."""
        u = self._random()
        return u / (1.0 - u)

    def lognormal(self) -> float:
        """Location 0, scale 1, by Box and Muller; two uniform numbers a draw."""
        radius = math.sqrt(-2.0 * math.log1p(-self._random()))
        return math.exp(radius * math.cos(math.tau * self._random()))

    def logistic(self, scale: float) -> float:
        """Location 0; either sign."""
        u = self._random()
        return scale * (math.log(u) - math.log1p(-u)) if u > 0.0 else -math.inf


class Key:
    """A path of names under a seed. Equal paths give equal streams; a child never shares its parent's."""

    __slots__ = ("_path",)

    def __init__(self, *names: Name) -> None:
        self._path = b"".join(_encode(name) for name in names)

    def child(self, *names: Name) -> Key:
        key = Key.__new__(Key)
        key._path = self._path + b"".join(_encode(name) for name in names)
        return key

    def draw(self) -> Draw:
        return Draw(random.Random(int.from_bytes(hashlib.blake2b(self._path, digest_size=16).digest(), "big")).random)

    def permutation(self, n: int) -> npt.NDArray[np.int64]:
        """A permutation of range(n) for large n: the order of n hashed counters, about 0.1 s a million.

        Two equal hashes (one chance in 2**64 / n**2) would keep their order, so the result is a permutation always.
        """
        seed = int.from_bytes(hashlib.blake2b(self._path, digest_size=8).digest(), "big")
        return np.argsort(_splitmix64(np.arange(n, dtype=np.uint64), seed), kind="stable")


@lru_cache(maxsize=1 << 14)
def _encode(name: Name) -> bytes:
    """Length-prefixed and typed, so that no two paths share an encoding: ("ab", "c") and ("a", "bc") differ."""
    kind, text = (b"i", str(name).encode()) if isinstance(name, int) else (b"s", name.encode("utf-8"))
    return kind + len(text).to_bytes(4, "big") + text


def _splitmix64(counters: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (OOPSLA 2014), figure 16."""
    with np.errstate(over="ignore"):
        z = (counters + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)), dtype=np.uint64)
