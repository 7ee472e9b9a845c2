"""How the report looks. No font, picture or script is fetched; colours follow the reader's light or dark theme."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Final

LIGHT: Final[Mapping[str, str]] = {
    "page": "#ffffff", "panel": "#f5f6f8", "text": "#1b1f24", "soft": "#535b66", "line": "#d5d9df", "link": "#1d5fa8",
    "mark": "#ffe28a",
    "c1": "#2f6fb3", "c2": "#a66300", "c3": "#c0392b", "c4": "#1b7f6c", "c5": "#7d57b2", "c6": "#6b7280",
}  # fmt: skip
DARK: Final[Mapping[str, str]] = {
    "page": "#14171c", "panel": "#1d2127", "text": "#e6e9ed", "soft": "#a6aeb9", "line": "#39404a", "link": "#86b8f0",
    "mark": "#6b5300",
    "c1": "#6ba6e6", "c2": "#dda04a", "c3": "#ee8576", "c4": "#4fbfa8", "c5": "#b595e3", "c6": "#98a1ad",
}  # fmt: skip
"""Text is told from page and panel at 4.5 to 1 or better, and so are the numbers of tiles from c1 to c6."""

CATEGORIES: Final = ("c1", "c4", "c5", "c6", "c3", "c2")


def _variables(colours: Mapping[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


_CLASSES: Final = "".join(
    f".c{n}{{fill:var(--c{n});background:var(--c{n})}}.t{n}{{--tile:var(--c{n})}}" for n in range(1, 7)
)
"""``c1`` to ``c6`` are pieces of charts, ``t1`` to ``t6`` tiles, which are drawn in several shades."""

_THEMES: Final = f"""
:root{{color-scheme:light dark;{_variables(LIGHT)}}}
@media(prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}
"""

_RULES: Final = files("mosaic_ray.pages").joinpath("style.css").read_text(encoding="utf-8")

CSS: Final = _THEMES + _CLASSES + _RULES
