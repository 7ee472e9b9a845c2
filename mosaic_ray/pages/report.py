"""``report.html``: what a person looks at. One file, which fetches nothing and shows all text as text.

It runs one script, its own, and is all there without it. The browser is told the digests of that script and of the
style, and to take nothing else for one, whatever a text says.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any, Final

from mosaic_ray.pages.charts import Amount, bars
from mosaic_ray.pages.distributions import distributions, mixing, records
from mosaic_ray.pages.markup import figure, in_code, table
from mosaic_ray.pages.samples import Shown, browser
from mosaic_ray.pages.saving import saving
from mosaic_ray.pages.style import CSS
from mosaic_ray.pages.text import counted, escaped, setting, share, size
from mosaic_ray.records import REASONS
from mosaic_ray.runtime.receipt import receipt_path

_MOST_FILES: Final = 50
_MOST_NAMES: Final = 100
_SCRIPT: Final = files("mosaic_ray.pages").joinpath("script.js").read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode()}'"


_POLICY: Final = (
    f"default-src 'none'; style-src {_digest(CSS)}; script-src {_digest(_SCRIPT)}; base-uri 'none'; form-action 'none'"
)


def report(
    manifest: Mapping[str, Any],
    samples: Sequence[Shown],
    rejects: Sequence[Mapping[str, Any]],
    drawn_from: Mapping[int, int],
) -> str:
    """The page.

    samples: to be shown in full. rejects: rows of the files of rejects, as examples. drawn_from: of the samples of
    several records that were read, how many draw from so many files.
    """
    listed = {file["name"]: place for place, file in enumerate(manifest["inventory"][:_MOST_FILES])}
    sections = [
        ("records", "What went in and what came out", records(manifest)),
        ("distributions", "What the samples are like", distributions(manifest)),
        ("mixing", "How well the source is mixed", mixing(manifest, drawn_from)),
        ("saving", "What it saves", saving(manifest)),
        ("samples", "Samples", browser(manifest, samples, listed)),
        ("rejects", "Rejected records", _rejects(manifest, rejects)),
        ("source", "Source files", _source(manifest["inventory"])),
        ("settings", "How it was made", _settings(manifest)),
        ("work", "Work", _work(manifest)),
    ]
    if "since" in manifest:
        sections.insert(1, ("since", "What is new", _since(manifest["since"])))
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{title}</h2>{content}</section>\n' for name, title, content in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{counted(manifest["totals"]["samples"], "sample")} by {escaped(manifest["method"]["name"])}</title>
<style>{CSS}</style>
</head>
<body>
<header>{_head(manifest)}<nav aria-label="Sections">{links}</nav></header>
<main>
{body}</main>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _head(manifest: Mapping[str, Any]) -> str:
    finished = datetime.fromisoformat(manifest["created"]["finished"])
    return (
        f"<h1>A data set by {escaped(manifest['method']['name'])}</h1>"
        f'<p class="soft">{in_code(manifest["places"]["output"])}<br>Finished {finished:%Y-%m-%d %H:%M} UTC by '
        f"mosaic_ray {escaped(manifest['mosaic_ray'])}, digest {in_code(manifest['dataset_digest'])}. "
        'See also <a href="README.md">README.md</a> and <a href="manifest.json">manifest.json</a>.</p>'
        f'<dl class="figures">{"".join(_figures(manifest))}</dl>'
    )


def _figures(manifest: Mapping[str, Any]) -> Iterator[str]:
    totals, epochs = manifest["totals"], manifest["plan"]["epochs"]
    samples, tokens = totals["samples"], totals["tokens"]
    found, rejected = manifest["accounting"]["records"], manifest["rejects"]["records"]
    for name, number, words in (
        ("Records in", f"{found:,}", f"from {counted(len(manifest['inventory']), 'file')}"),
        ("Samples out", f"{samples:,}", f"in {counted(epochs, 'epoch')} over all records"),
        ("Records per sample", f"{totals['tiles'] / samples:.2f}", f"{samples / epochs:,.0f} samples an epoch"),
        ("Tokens", f"{tokens:,}", f"{tokens / samples:,.0f} a sample, at most {totals['longest']:,}"),
        ("Rejected", f"{rejected:,}", f"{share(rejected, found)} of the records"),
    ):
        yield f'<div><dt>{name}</dt><dd class="number">{number}</dd><dd class="soft">{escaped(words)}</dd></div>'


def _since(since: Mapping[str, Any]) -> str:
    """What an incremental run took, and what it says of the samples before it."""
    counts = since["files"]
    of = "the first of its directory" if since["run"] is None else f"made since the data set {in_code(since['output'])}"
    rows = [
        (name, f"{counts[key]:,}", words)
        for key, name, words in (
            ("new", "new", "in this data set"),
            (
                "changed",
                "changed",
                "in this data set, as they are now; older samples that hold their records are stale",
            ),
            ("carried", "carried", "as they were: their samples are in older data sets"),
            ("gone", "gone", "no longer in the input; older samples that hold their records are stale"),
        )
    ]
    return (
        f"<p>This data set is {of}: it holds only what is new or changed.</p>"
        f"{table('Source files since then', ('files', 'number', ''), rows, right=(1,), wide=(2,))}"
        f"{_names('Changed', since['changed'], counts['changed'])}{_names('Gone', since['gone'], counts['gone'])}"
    )


def _names(title: str, names: Sequence[str], number: int) -> str:
    if not number:
        return ""
    items = "".join(f"<li>{in_code(name)}</li>" for name in names[:_MOST_NAMES])
    more = number - min(len(names), _MOST_NAMES)
    return (
        f"<details><summary>{title}: {counted(number, 'file')}</summary><ul>{items}</ul>"
        + (f"<p>and {counted(more, 'file')} more.</p>" if more > 0 else "")
        + "</details>"
    )


def _rejects(manifest: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> str:
    rejected, total = manifest["rejects"], manifest["accounting"]["records"]
    if not rejected["records"]:
        return "<p>None: every record could be used.</p>"
    reasons = sorted(rejected["by_reason"].items(), key=lambda item: -item[1])
    chart = bars([Amount(name, number, "c3") for name, number in reasons], label="Rejected records by reason")
    rows = [(escaped(name), f"{n:,}", escaped(share(n, total)), escaped(REASONS.get(name, ""))) for name, n in reasons]
    shown = [
        (escaped(r["reason"]), in_code(r["file"]), f"{r['row']:,}", escaped(r["detail"]), in_code(r["excerpt"]))
        for r in examples
    ]
    return (
        f"<p>{counted(rejected['records'], 'record')} of {total:,} could not be used. "
        f"The files under <code>rejects/</code> list each.</p>"
        f'<div class="charts">{figure("Reasons", chart, "Rejected records by reason.")}</div>'
        f"{table('Rejects by reason', ('reason', 'records', 'of all', 'meaning'), rows, right=(1, 2), wide=(3,))}"
        f"<h3>Examples</h3>"
        f"{table('Examples', ('reason', 'file', 'row', 'detail', 'excerpt'), shown, right=(2,), wide=(1, 3, 4))}"
    )


def _source(files: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            f'<span id="file-{place}">{in_code(file["name"])}</span>',
            escaped(" ".join(filter(None, (file["format"], file["compression"])))),
            escaped(file["shape"]),
            f"{file['records']:,}",
            size(file["size"]),
        )
        for place, file in enumerate(files[:_MOST_FILES])
    ]
    more = len(files) - _MOST_FILES
    return (
        f"<p>{counted(len(files), 'file')}, {size(sum(file['size'] for file in files))}.</p>"
        f"{table('Source files', ('file', 'format', 'shape', 'records', 'size'), rows, right=(3, 4), wide=(0,))}"
        + (f"<p>and {counted(more, 'file')} more, in <code>manifest.json</code>.</p>" if more > 0 else "")
    )


def _settings(manifest: Mapping[str, Any]) -> str:
    tokenizer, method = manifest["tokenizer"], dict(manifest["method"])
    facts = {
        "input": manifest["places"]["input"],
        "method": f"{method.pop('name')}, version {method.pop('version')}",
        **method,
        **manifest["settings"],
        "tokenizer": f"{tokenizer['name']} ({tokenizer['digest']})",
        "tokens counted of": tokenizer["counted"],
        "python": manifest["python"],
        **manifest["libraries"],
    }
    return table("Settings", ("setting", "value"), [(escaped(name), in_code(setting(v))) for name, v in facts.items()])


def _work(manifest: Mapping[str, Any]) -> str:
    plan, created = manifest["plan"], manifest["created"]
    spent = ", ".join(f"{name} {seconds:,.1f} s" for name, seconds in created["worker_seconds"].items())
    slowest = [
        (str(entry["task"]), f"{entry['seconds']:,.1f}", in_code(receipt_path(entry["task"])))
        for entry in created["slowest_tasks"]
    ]
    return (
        f"<p>{counted(plan['tasks'], 'task')} made {counted(plan['parts'], 'part')}. The last start took "
        f"{created['seconds']:,.1f} s. Workers spent, over all starts: {escaped(spent)}.</p><h3>Slowest tasks</h3>"
        f"{table('Slowest tasks', ('task', 'seconds', 'receipt'), slowest, right=(0, 1))}"
    )
