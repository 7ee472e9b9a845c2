"""``README.md``: the data-set card, which ``datasets`` and the Hugging Face Hub read beside people.

It holds no time and not its own address: the same data set has the same card wherever it is made.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import yaml

from mosaic_ray.pages.text import code, counted, setting, share
from mosaic_ray.records import REASONS
from mosaic_ray.views import REJECT_SCHEMA, ViewSchema

_MOST_EPOCHS: Final = 20
_MOST_INPUTS: Final = 10

_ABOUT: Final[Mapping[str, str]] = {
    "mosaic-it": """Most samples are *mosaics*: the instructions of several source records stand in one instruction, and
their responses in one response. A meta-instruction before or after them says how to number and frame the answers
(`format`), in which order to give them (`permute`), or which of the tasks to leave out (`maskout`), and the response
obeys it. No language model wrote any of this: the texts are those of the source records, the meta-instructions are
filled templates. The method is Mosaic-IT (Li et al., [arXiv 2405.13326](https://arxiv.org/abs/2405.13326), Findings of
ACL 2025).
""",
}

COLUMNS: Final[Mapping[str, str]] = {
    "messages": "the conversation",
    "prompt": "what the model is given",
    "completion": "what it is to say",
    "conversations": "the conversation, as ShareGPT has it",
    "instruction": "what the model is given",
    "input": "always empty: the inputs of the source records are in `instruction`",
    "output": "what the model is to say",
    "mosaic_id": "unique in the data set, the same in every run over the same input",
    "epoch": "which of the epochs the sample belongs to, counted from 0",
    "tiles": "number of source records in the sample",
    "strategy": "how they were composed; `pass` is a record passed through whole",
    "kind": "the variant of the strategy, null where it has none",
    "params": "everything that was drawn for the sample, as JSON",
    "token_count": "exact number of tokens of the sample, counted as *How it was made* says",
    "sources": "where each source record stands, rows counted from 0, in the order of the tiles",
}

_SIZES: Final = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"), (10**12, "100B<n<1T"),
)  # fmt: skip
"""The Hub's size categories, with the number of rows that each stays below."""


def card(manifest: Mapping[str, Any]) -> str:
    """The card of a data set, from its manifest; Markdown under a YAML header."""
    header = yaml.safe_dump(_header(manifest), sort_keys=False, allow_unicode=True)
    sections = (_about, _loading, _columns, _accounting, _rejects, _making, _checking)
    return f"---\n{header}---\n\n" + "\n".join(section(manifest) for section in sections)


def size_category(samples: int) -> str:
    return next((name for below, name in _SIZES if samples < below), "n>1T")


def _header(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """``data_files`` keeps ``datasets`` away from ``rejects/`` and ``_mosaic/``, which hold Parquet too."""
    return {
        "task_categories": ["text-generation"],
        "size_categories": [size_category(manifest["totals"]["samples"])],
        "tags": ["instruction-tuning", manifest["method"]["name"]],
        "configs": configs(manifest),
    }


def configs(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What ``datasets`` loads.

    It keeps what it has loaded by the last name of the directory and this entry, so the digest has to stand in it, or
    another data set of the same name would come out of the cache.
    """
    files = [{"split": "train", "path": "data/train-*.parquet"}]
    return [{"config_name": "default", "description": manifest["dataset_digest"], "data_files": files}]


def _about(manifest: Mapping[str, Any]) -> str:
    totals, method, epochs = manifest["totals"], manifest["method"]["name"], manifest["plan"]["epochs"]
    samples, records = totals["samples"], counted(manifest["accounting"]["records"], "record")
    outline = f"""
        An instruction-tuning data set, made by mosaic_ray {code(manifest["mosaic_ray"])} with the method
        {code(method)}. It holds {counted(epochs, "epoch")}, each a new composition of the whole source:
        {samples / epochs:,.0f} samples on average, where the source has {records}. A sample holds
        {totals["tiles"] / samples:.2f} records and {totals["tokens"] / samples:,.0f} tokens on average. The longest has
        {counted(totals["longest"], "token")} of a budget of {manifest["settings"]["max_tokens"]:,}.
    """
    return f"""# {counted(samples, "sample")} composed of {records}

{filled(outline)}
{_since(manifest)}
{_ABOUT.get(method, "")}
No licence is stated here: the texts are those of the source, and so are the rights to them. `report.html` shows
distributions and samples, `manifest.json` lists every file.
"""


def _since(manifest: Mapping[str, Any]) -> str:
    """What a snapshot is a part of; nothing of any other data set."""
    since = manifest.get("since")
    if since is None or since["run"] is None:
        return ""
    files = since["files"]
    said = f"""
        It is a snapshot: the source files that are new ({files["new"]:,}) or changed ({files["changed"]:,}) since the
        data set with the digest {code(since["dataset_digest"])}, and to be used with that one and those before it.
    """
    return f"\n{filled(said)}\n"


def _loading(manifest: Mapping[str, Any]) -> str:
    epochs = counted(manifest["plan"]["epochs"], "epoch")
    passes = f"""
        The rows of an epoch stand together, epoch 0 first, and in each epoch every usable record is in exactly one
        sample. One pass over all rows (`num_train_epochs=1`) is {epochs} over the source; to train for fewer, keep the
        rows with a lower `epoch`. {_lengths(manifest)}
    """
    return f"""## Load it

```python
from datasets import load_dataset

train = load_dataset("DIRECTORY", split="train")  # the directory of this file, or a repository on the Hub

# from object storage
files = "s3://BUCKET/PATH/data/train-*.parquet"
train = load_dataset("parquet", data_files=files, split="train")
```

{filled(passes)}
"""


def _lengths(manifest: Mapping[str, Any]) -> str:
    """What the counts promise a trainer: it depends on whether the trainer adds what was not counted."""
    tokenizer, budget = manifest["tokenizer"], counted(manifest["settings"]["max_tokens"], "token")
    room = f"so leave room for them: give the trainer a maximal length above {budget}."
    if manifest["settings"]["view"] == "alpaca":
        return f"""
            `token_count` counts instruction and response as {code(tokenizer["counted"])}. A trainer that adds a prompt
            template of its own (`alpaca` in axolotl and LLaMA-Factory) adds the tokens of that template, which were
            not counted, {room}
        """
    if manifest["settings"]["view"] == "messages" and tokenizer["chat_template"] is None:
        return f"""
            `token_count` counts plain text: {code(tokenizer["counted"])}. A trainer renders `messages` by a chat
            template, which adds tokens that were not counted, {room}
        """
    return f"A trainer that has this tokenizer and a maximal length of {budget} cuts no sample short."


def _columns(manifest: Mapping[str, Any]) -> str:
    chat = manifest["tokenizer"]["chat_template"] is not None
    schema = ViewSchema(manifest["settings"]["view"], chat).schema
    rows = [[code(field.name), column_type(field.type), COLUMNS[field.name]] for field in schema]
    return f"## Columns\n\n{table(['column', 'type', 'meaning'], rows)}"


def _accounting(manifest: Mapping[str, Any]) -> str:
    accounting = manifest["accounting"]
    heads = ["epoch", "composed", "passed through", "rejected", "sum", "samples", "tokens"]
    rows = [
        [
            str(entry["epoch"]),
            *(f"{entry[name]:,}" for name in ("composed", "passed", "rejected", "sum")),
            f"{totals['samples']:,}",
            f"{totals['tokens']:,}",
        ]
        for entry, totals in zip(accounting["epochs"], manifest["epochs"], strict=True)
    ]
    listed = table(heads, rows[:_MOST_EPOCHS], numbers=len(heads))
    more = len(rows) - _MOST_EPOCHS
    rest = f"\nand {counted(more, 'epoch')} more, in `manifest.json`.\n" if more > 0 else ""
    policies = manifest["policies"]
    notes = (
        (policies["first_turn_only"], "cut to the first turn, without a system prompt"),
        (policies["special_tokens"], "freed of a spelt special token"),
    )
    said = "".join(f"\n{counted(number, 'record')} {words}.\n" for number, words in notes if number)
    rule = f"""
        The source holds {counted(accounting["records"], "record")}. In every epoch each of them is composed into a
        sample, passed through whole (a conversation with a system prompt or several turns), or rejected.
    """
    return f"""## Where the records went

{filled(rule)}

{listed}{rest}{said}"""


def _rejects(manifest: Mapping[str, Any]) -> str:
    rejects = manifest["rejects"]
    if not rejects["records"]:
        return "## Rejected records\n\nNone.\n"
    total = rejects["records"]
    rows = [
        [code(reason), f"{count:,}", share(count, total), REASONS.get(reason, "")]
        for reason, count in sorted(rejects["by_reason"].items(), key=lambda item: -item[1])
    ]
    fields = ", ".join(code(name) for name in REJECT_SCHEMA.names)
    rule = f"""
        {counted(total, "record")} of {manifest["accounting"]["records"]:,} could not be used. The Parquet files under
        `rejects/` list each with {fields}.
    """
    return f"""## Rejected records

{filled(rule)}

{table(["reason", "records", "share", "meaning"], rows, numbers=(1, 2))}"""


def _making(manifest: Mapping[str, Any]) -> str:
    tokenizer, inputs = manifest["tokenizer"], manifest["places"]["input"]
    more = len(inputs) - _MOST_INPUTS
    source = ", ".join(code(uri) for uri in inputs[:_MOST_INPUTS]) + (f" and {more:,} more" if more > 0 else "")
    method = {name: value for name, value in manifest["method"].items() if name not in ("name", "version")}
    rows = [
        ["source", f"{source}: {counted(len(manifest['inventory']), 'file')}"],
        ["method", f"{code(manifest['method']['name'])} version {code(manifest['method']['version'])}"],
        *([code(name), code(setting(value))] for name, value in {**method, **manifest["settings"]}.items()),
        ["tokenizer", f"{code(tokenizer['name'])}, digest {code(tokenizer['digest'])}"],
        ["counted as", code(tokenizer["counted"])],
        ["data set", f"digest {code(manifest['dataset_digest'])}"],
    ]
    return f"""## How it was made

{table(["setting", "value"], rows)}
The same source, settings and versions give the same rows, and so the same digest of the data set, on any number of
machines.
"""


def _checking(manifest: Mapping[str, Any]) -> str:
    return f"""## Check it

With mosaic_ray {code(manifest["mosaic_ray"])} installed:

```sh
mosaic-ray verify DIRECTORY                # checksums, accounting, and each sample against its source records
mosaic-ray verify DIRECTORY --recompute 2  # and two parts rebuilt from the source, byte for byte
mosaic-ray explain DIRECTORY/{manifest["parts"][0]["name"]}:0
```

`explain` takes one sample apart: its source records, what was drawn, and whether the response obeys. Where the source
has moved, say so with `--input`.
"""


def column_type(kind: pa.DataType) -> str:
    if not pa.types.is_list(kind):
        return code(kind)
    item = kind.value_type
    return f"list of {' and '.join(map(code, item.names)) if pa.types.is_struct(item) else code(item)}"


def filled(text: str) -> str:
    """A paragraph in lines of equal length, whatever values it was made with."""
    return textwrap.fill(" ".join(text.split()), 118, break_long_words=False, break_on_hyphens=False)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int | Sequence[int] = ()) -> str:
    """numbers: which columns stand right; a number is that many from the first."""
    right = set(range(numbers) if isinstance(numbers, int) else numbers)
    rule = ["---:" if column in right else "---" for column in range(len(heads))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, rule, *rows))
