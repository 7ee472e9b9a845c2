"""What the templates share: how they draw, and from which words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from mosaic_ray.embedded.entry import Entry
from mosaic_ray.seeding import Draw, Key

T = TypeVar("T")
Template = Callable[[Draw], Entry]

NAMES = (
    "Amara", "Anton", "Bea", "Chen", "Clara", "Dario", "Elif", "Emeka", "Farah", "Finn", "Greta", "Hugo", "Ines", "Ivo",
    "Jana", "Kofi", "Lena", "Luca", "Maren", "Mateo", "Mira", "Nadia", "Nils", "Olga", "Omar", "Pavel", "Priya", "Rosa",
    "Ruben", "Sana", "Tariq", "Tilda", "Uma", "Viktor", "Wanda", "Yusuf", "Zoe",
)  # fmt: skip
CITIES = (
    "Aarhus", "Bergen", "Cadiz", "Dresden", "Eger", "Faro", "Ghent", "Haarlem", "Innsbruck", "Kaunas", "Lille", "Malmo",
    "Nantes", "Oulu", "Porto", "Riga", "Siena", "Tartu", "Utrecht", "Varna", "York", "Zadar",
)  # fmt: skip
WORDS = (
    "anchor", "barrel", "bicycle", "bridge", "candle", "canyon", "carpet", "cello", "cherry", "clock", "comet",
    "copper", "desert", "drum", "eagle", "engine", "feather", "fig", "forest", "garden", "ginger", "glove", "hammer",
    "harbour", "hill", "island", "ivory", "jacket", "kettle", "ladder", "lantern", "lemon", "maple", "mirror",
    "mountain", "needle", "oak", "orchard", "otter", "paper", "pebble", "pepper", "pillow", "quartz", "rain", "ribbon",
    "river", "saddle", "silver", "sparrow", "spoon", "sugar", "tent", "thunder", "tunnel", "umbrella", "valley",
    "velvet", "violin", "waterfall", "whistle", "window", "yarn", "zebra",
)  # fmt: skip
GOODS = (
    ("bread", "food"), ("candles", "home"), ("cheese", "food"), ("coffee", "food"), ("envelopes", "office"),
    ("honey", "food"), ("ink", "office"), ("kettle", "home"), ("lamp", "home"), ("mugs", "home"),
    ("notebook", "office"), ("pens", "office"), ("rice", "food"), ("soap", "home"), ("stapler", "office"),
    ("tea", "food"), ("towels", "home"), ("walnuts", "food"),
)  # fmt: skip


def between(draw: Draw, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return low + draw.below(high - low + 1)


def sample(draw: Draw, options: Sequence[T], count: int) -> list[T]:
    """``count`` different places of ``options``, in random order."""
    return [options[place] for place in draw.shuffle(len(options))[:count]]


def generate(templates: Sequence[Template], *, count: int, key: Key) -> list[Entry]:
    """``count`` entries with different questions, from the templates in turn."""
    entries: dict[str, Entry] = {}
    attempt = 0
    while len(entries) < count:
        template = templates[len(entries) % len(templates)]
        entry = template(key.child(template.__name__, attempt).draw())
        entries.setdefault(entry.question, entry)
        attempt += 1
    return list(entries.values())
