"""``report.html``: what a person looks at. One file, which fetches and runs nothing and shows all text as text."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from mosaic_ray.pages.distributions import distributions, mixing, records
from mosaic_ray.pages.markup import block, in_code, table
from mosaic_ray.pages.style import CSS
from mosaic_ray.pages.text import counted, escaped, setting, share, size
from mosaic_ray.records import REASONS, Message
from mosaic_ray.runtime.receipt import receipt_path

_MOST_FILES: Final = 50
_MOST_SOURCES: Final = 100
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
"""The browser is to fetch and run nothing, even if a text were taken for markup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A sample to show: row ``number`` of a part, and its conversation."""

    part: str
    number: int
    messages: tuple[Message, ...]
    row: Mapping[str, Any]


def report(manifest: Mapping[str, Any], samples: Sequence[Shown], rejects: Sequence[Mapping[str, Any]]) -> str:
    """The page.

    samples: to be shown in full. rejects: rows of the files of rejects, as examples.
    """
    sections = (
        ("records", "Where the records went", records(manifest)),
        ("distributions", "What the samples are like", distributions(manifest)),
        ("mixing", "How well the source is mixed", mixing(manifest)),
        ("samples", "Samples", _samples(manifest, samples)),
        ("rejects", "Rejected records", _rejects(manifest, rejects)),
        ("source", "Source files", _source(manifest["inventory"])),
        ("settings", "How it was made", _settings(manifest)),
        ("work", "Work", _work(manifest)),
    )
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


def _samples(manifest: Mapping[str, Any], samples: Sequence[Shown]) -> str:
    """The first one open, the others closed."""
    parts = counted(len({sample.part for sample in samples}), "part")
    output = manifest["places"]["output"].rstrip("/")
    blocks = (_sample(output, sample, opened=place == 0) for place, sample in enumerate(samples))
    return (
        f"<p>The first rows of {parts}, spread over the data set and not chosen by what they hold. Characters that "
        f"cannot be seen are spelt out, as in ⟨U+202E⟩.</p>{''.join(blocks)}"
    )


def _sample(output: str, sample: Shown, *, opened: bool) -> str:
    row = sample.row
    name = f"{row['strategy']}, {row['kind']}" if row["kind"] else row["strategy"]
    roles = [message.role for message in sample.messages]
    titles = ["Instruction", "Response"] if roles == ["user", "assistant"] else [role.capitalize() for role in roles]
    texts = "".join(
        f"<h3>{escaped(title)}</h3>{block(message.content)}"
        for title, message in zip(titles, sample.messages, strict=True)
    )
    sources = [
        (str(tile), in_code(source["file"]), f"{source['row']:,}")
        for tile, source in enumerate(row["sources"][:_MOST_SOURCES], 1)
    ]
    more = len(row["sources"]) - _MOST_SOURCES
    place = shlex.quote(f"{output}/{sample.part}:{sample.number}")
    drawn = [(escaped(field), in_code(value)) for field, value in _flat(json.loads(row["params"]))]
    counts = f"{counted(row['tiles'], 'record')} · {counted(row['token_count'], 'token')}"
    return (
        f"<details{' open' if opened else ''}><summary><b>{escaped(name)}</b> · {counts} · "
        f'<span class="soft">{escaped(row["mosaic_id"])}</span></summary>{texts}'
        f"<h3>Source records</h3>{table('Source records', ('tile', 'file', 'row'), sources, right=(0, 2), wide=(1,))}"
        + (f"<p>and {counted(more, 'record')} more.</p>" if more > 0 else "")
        + (f"<h3>What was drawn</h3>{table('What was drawn', ('name', 'value'), drawn)}" if drawn else "")
        + f"<p>To take it apart: {in_code(f'mosaic-ray explain {place}')}</p></details>"
    )


def _rejects(manifest: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> str:
    rejected, total = manifest["rejects"], manifest["accounting"]["records"]
    if not rejected["records"]:
        return "<p>None: every record could be used.</p>"
    reasons = sorted(rejected["by_reason"].items(), key=lambda item: -item[1])
    rows = [(escaped(name), f"{n:,}", escaped(share(n, total)), escaped(REASONS.get(name, ""))) for name, n in reasons]
    shown = [
        (escaped(r["reason"]), in_code(r["file"]), f"{r['row']:,}", escaped(r["detail"]), in_code(r["excerpt"]))
        for r in examples
    ]
    return (
        f"<p>{counted(rejected['records'], 'record')} of {total:,} could not be used. "
        f"The files under <code>rejects/</code> list each.</p>"
        f"{table('Rejects by reason', ('reason', 'records', 'of all', 'meaning'), rows, right=(1, 2), wide=(3,))}"
        f"<h3>Examples</h3>"
        f"{table('Examples', ('reason', 'file', 'row', 'detail', 'excerpt'), shown, right=(2,), wide=(1, 3, 4))}"
    )


def _source(files: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            in_code(file["name"]),
            escaped(" ".join(filter(None, (file["format"], file["compression"])))),
            escaped(file["shape"]),
            f"{file['records']:,}",
            size(file["size"]),
        )
        for file in files[:_MOST_FILES]
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


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested objects as dotted names with values in JSON."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else key)
    elif name:
        yield name, json.dumps(value, ensure_ascii=False)
