"""How the report looks. No font, picture or script is fetched; colours follow the reader's light or dark theme."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

LIGHT: Final[Mapping[str, str]] = {
    "page": "#ffffff", "panel": "#f5f6f8", "text": "#1b1f24", "soft": "#535b66", "line": "#d5d9df", "link": "#1d5fa8",
    "c1": "#2f6fb3", "c2": "#b36b00", "c3": "#c0392b", "c4": "#1b7f6c", "c5": "#7d57b2", "c6": "#6b7280",
}  # fmt: skip
DARK: Final[Mapping[str, str]] = {
    "page": "#14171c", "panel": "#1d2127", "text": "#e6e9ed", "soft": "#a6aeb9", "line": "#39404a", "link": "#86b8f0",
    "c1": "#6ba6e6", "c2": "#dda04a", "c3": "#ee8576", "c4": "#4fbfa8", "c5": "#b595e3", "c6": "#98a1ad",
}  # fmt: skip
"""Text is told from page and panel at 4.5 to 1 or better, the pieces of charts (c1 to c6) at 3 to 1."""

CATEGORIES: Final = ("c1", "c4", "c5", "c6", "c3", "c2")


def _variables(colours: Mapping[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


_CLASSES: Final = "".join(f".c{n}{{fill:var(--c{n});background:var(--c{n})}}" for n in range(1, 7))

_THEMES: Final = f"""
:root{{color-scheme:light dark;{_variables(LIGHT)}}}
@media(prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}
"""

_RULES: Final = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
header,main{max-width:960px;margin:0 auto;padding:32px 16px 0}
main{padding:0 16px 64px}
h1{font-size:clamp(22px,6vw,28px);line-height:1.25;margin:0 0 8px}
h2{font-size:20px;margin:48px 0 12px}
h3{font-size:15px;margin:20px 0 8px}
figure h3,summary+h3{margin-top:0}
p{margin:0 0 12px;max-width:44em}
.soft,figcaption,dt,th{color:var(--soft)}
a{color:var(--link)}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:16px 0 0}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;font-size:13px}
code{unicode-bidi:isolate;overflow-wrap:anywhere}
pre{unicode-bidi:plaintext;text-align:start;white-space:pre-wrap;overflow-wrap:anywhere;background:var(--page);
border:1px solid var(--line);border-radius:6px;margin:0 0 16px;padding:10px 12px;line-height:1.5}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:24px 0 0}
.figures div{background:var(--panel);border-radius:8px;padding:14px 16px}
.figures dt{font-size:13px}
.figures dd{margin:0}
.figures .number{font-size:26px;line-height:1.3;font-weight:600;font-variant-numeric:tabular-nums}
.figures .soft{font-size:13px;line-height:1.4}
.charts{columns:2 380px;column-gap:16px}
.charts figure{break-inside:avoid;margin-bottom:16px}
figure{margin:0;background:var(--panel);border-radius:8px;padding:14px 16px}
figcaption{font-size:13px;margin:8px 0 0}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{fill:var(--text);font-size:12px}
svg .grid{stroke:var(--line)}
svg .limit{stroke:var(--c3);stroke-width:2;stroke-dasharray:5 4}
svg.stack{height:28px;border-radius:4px;overflow:hidden}
.stack rect{stroke:var(--panel);stroke-width:2;vector-effect:non-scaling-stroke}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 20px;margin:10px 0 0;padding:0;font-size:14px}
.legend i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:7px}
.scroll{overflow-x:auto;margin:0 0 12px}
.scroll:focus-visible,summary:focus-visible,a:focus-visible{outline:2px solid var(--link);outline-offset:2px}
table{border-collapse:collapse;font-size:14px}
th,td{text-align:start;vertical-align:top;padding:6px 24px 6px 0;border-bottom:1px solid var(--line)}
th{font-weight:600;white-space:nowrap}
th.n,td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.text{min-width:14em}
details{background:var(--panel);border-radius:8px;margin:0 0 10px;padding:0 16px}
summary{cursor:pointer;padding:12px 0;overflow-wrap:anywhere}
details[open]{padding-bottom:8px}
@media print{details,figure,.figures div{break-inside:avoid}}
"""

CSS: Final = _THEMES + _CLASSES + _RULES
