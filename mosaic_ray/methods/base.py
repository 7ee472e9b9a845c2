"""What a method is: a pure function from the records of a task to samples.

A method draws every random number from the key it is given, counts every token by the measure it is given, and does
not know of files, clocks, environments, Ray, or how its records were chosen. The runtime checks of every epoch that
each record is placed once and that no stated count is over the budget; ``verify`` counts every sample again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from mosaic_ray.records import Message, Record, Sample, Woven
from mosaic_ray.seeding import Key


class Measure(Protocol):
    """The token budget and how a conversation is held against it."""

    @property
    def max_tokens(self) -> int: ...

    def count(self, messages: Sequence[Message | Woven]) -> int:
        """Tokens of the conversation as the trainer will see it."""
        ...

    def spells_control(self, *texts: str) -> bool:
        """Whether a text holds a token that steers the model, such as an end-of-turn marker.

        Of several texts, whether the text that they make together does.
        """
        ...


class Span(NamedTuple):
    """Where one tile stands in a text, or, as tile 0, what is said about the tiles; offsets in characters.

    The tile's own text is ``text[inner:inner_end]``; from ``start`` to ``inner`` and from ``inner_end`` to ``end``
    are the tags around it.
    """

    tile: int
    start: int
    inner: int
    inner_end: int
    end: int


class Outline(NamedTuple):
    """Where the tiles of a sample stand.

    instruction, response: the spans of each text from left to right, nothing but white space between them; None where
        the text does not say for certain.
    answered: the tiles that the response answers, in its order.
    """

    instruction: tuple[Span, ...] | None
    response: tuple[Span, ...] | None
    answered: tuple[int, ...]


class Method(Protocol):
    """One way to make training samples of records."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name, version and options, as JSON: part of the run's fingerprint.

        The version is raised whenever the same draw gives other bytes.
        """
        ...

    @property
    def expected_tiles(self) -> float | None:
        """Records of a sample on average, where the token budget does not decide it."""
        ...

    def compose(self, records: Sequence[Record], *, key: Key, measure: Measure) -> Iterator[Sample]:
        """Tile the records of one epoch of one task.

        Every record (plain, never whole, each fitting the budget alone) is in exactly one sample, and no sample is
        over the budget.
        """
        ...

    def check(self, sample: Mapping[str, Any], tiles: Sequence[Record]) -> str | None:
        """What is wrong with a finished sample, or None.

        sample: ``strategy``, ``kind``, ``params`` (parsed), ``instruction`` and ``response``.
        tiles: its source records, in the order of ``sources``.
        """
        ...

    def outline(self, sample: Mapping[str, Any]) -> Outline | None:
        """Where its tiles stand in a finished sample, as far as it can be told without its source records.

        sample: ``tiles`` (how many), ``params`` (parsed), ``instruction`` and ``response``. None for a sample that is
        not laid out by this method, such as a record passed through whole.
        """
        ...
