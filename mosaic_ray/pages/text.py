"""Numbers, and text of unknown hands, as a page can show them."""

from __future__ import annotations

import html
import json
import re
from typing import Any, Final

from mosaic_ray.text import seen, seen_on_one_line

_PLAIN_CODE: Final = re.compile(r"[\w./:=@%+-](?:[\w ./:=,@%+()-]*[\w./:=@%+)-])?", re.ASCII)
_MARKDOWN: Final = re.compile(r"[\\`*_{}\[\]<>|#~!&$\"'^:@]")


def escaped(text: object) -> str:
    """As text or an attribute's value in HTML."""
    return html.escape(seen(str(text)))


def code(text: object) -> str:
    """In Markdown, also in a cell of a table: on one line, in the font of code, with nothing that acts as markup."""
    value = seen_on_one_line(str(text))
    if _PLAIN_CODE.fullmatch(value):
        return f"`{value}`"
    return f"<code>{_MARKDOWN.sub(lambda found: f'&#{ord(found[0])};', value)}</code>"


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}\n… {len(text) - most:,} characters more"


def counted(number: int, noun: str) -> str:
    """``1 file``, ``2,000 files``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def compact(number: float) -> str:
    """At most five characters, for axes: ``950``, ``1.2k``, ``35M``."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * limit:
            return f"{number / limit:.3g}{letter}"
    return f"{number:g}"


def share(part: float, whole: float) -> str:
    """A percentage; one that rounds to nothing, or to everything, but is not, says so."""
    if not part:
        return "0%"
    percent = 100 * part / whole
    if 0 < percent < 0.05:
        return "<0.1%"
    return ">99.9%" if 99.95 <= percent < 100 else f"{percent:.1f}%"


def changed(before: float, after: float) -> str:
    """``12.0% fewer``, ``3.1% more``."""
    if before == after:
        return "as many"
    return f"{share(abs(after - before), before) if before else 'all'} {'fewer' if after < before else 'more'}"


def size(number: int) -> str:
    """Bytes in powers of 1,000."""
    for limit, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= limit:
            return f"{number / limit:,.1f} {unit}"
    return f"{number:,} B"


def setting(value: Any) -> str:
    """A setting's value on one line, numbers as they are typed."""
    if isinstance(value, list):
        return ", ".join(map(setting, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} = {setting(item)}" for key, item in value.items()) or "none"
    return value if isinstance(value, str) else json.dumps(value)
