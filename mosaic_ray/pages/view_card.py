"""``README.md`` of a view: what its columns are and how a trainer takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
import yaml

from mosaic_ray.config import TOKEN_VIEWS
from mosaic_ray.pages.card import COLUMNS, column_type, configs, filled, size_category, table
from mosaic_ray.pages.text import code, counted, share
from mosaic_ray.views import ViewSchema
from mosaic_ray.views.derived import LEFT_OUT, PACKED, TOKENIZED

_TOKEN_COLUMNS: Final[Mapping[str, str]] = {
    "input_ids": "token ids",
    "attention_mask": "1 for every token: nothing is padded yet",
    "labels": "the token's id where it is trained, -100 elsewhere",
    "position_ids": "place of the token in its sample: begins again at 0 with each",
    "seq_lengths": "tokens of each sample in the row, in order",
}


def view_card(manifest: Mapping[str, Any]) -> str:
    """The card of a view, from its manifest; Markdown under a YAML header."""
    header = {
        "task_categories": ["text-generation"],
        "size_categories": [size_category(manifest["totals"]["rows"])],
        "configs": configs(manifest),
    }
    name, totals = manifest["view"]["name"], manifest["totals"]
    meanings = {**COLUMNS, **_TOKEN_COLUMNS}
    columns = table(
        ["column", "type", "meaning"],
        [[code(field.name), column_type(field.type), meanings[field.name]] for field in _schema(manifest)],
    )
    return f"""---
{yaml.safe_dump(header, sort_keys=False)}---

# View {name}: {counted(totals["rows"], "row")}

{filled(_about(manifest))}

{columns}
## Where the samples went

{_accounting(manifest)}
## How it was made

By mosaic_ray {code(manifest["mosaic_ray"])}, of the data set with the digest {code(manifest["of"]["dataset_digest"])}
(`../..`), part by part: its part N of an epoch is made of part N there. Digest of the view:
{code(manifest["dataset_digest"])}.
"""


def _schema(manifest: Mapping[str, Any]) -> pa.Schema:
    name = manifest["view"]["name"]
    if name in TOKEN_VIEWS:
        return PACKED if name == "packed" else TOKENIZED
    return ViewSchema(name, manifest["tokenizer"]["chat_template"] is not None).schema


def _about(manifest: Mapping[str, Any]) -> str:
    name, totals, packing = manifest["view"]["name"], manifest["totals"], manifest["packing"]
    if name not in TOKEN_VIEWS:
        return f"The samples of another view, {counted(totals['samples'], 'sample')}, in the columns of {code(name)}."
    end = manifest["ends_turn"]
    behind = f"and {code(end)}, which ends its turn" if end else "and nothing behind them: no token ends its turn"
    trained = f"""
        Tokens are those of {code(manifest["tokenizer"]["name"])}: {totals["tokens"]:,}, of which
        {share(totals["trained_tokens"], totals["tokens"])} are trained. Trained are the texts of the assistant
        {behind}.
    """
    if packing is None:
        return f"One sample a row. {trained}"
    return f"""
        Whole samples, {packing["samples_per_row"]:.2f} a row on average, best fit first, in rows of at most
        {counted(packing["sequence_length"], "token")}, which are {packing["efficiency"]:.2%} full. No sample is cut.
        Attention must not reach from one sample of a row to another: give the trainer `position_ids` or `seq_lengths`,
        and no attention mask. {trained}
    """


def _accounting(manifest: Mapping[str, Any]) -> str:
    accounting = manifest["accounting"]
    rows = [["in the view", f"{accounting['in_view']:,}", ""]]
    rows += [
        [f"left out: {code(reason)}", f"{count:,}", LEFT_OUT[reason]]
        for reason, count in accounting["left_out"].items()
    ]
    rows += [["together", f"{accounting['samples']:,}", "as many as the data set has"]]
    return table(["samples", "number", ""], rows, numbers=(1,))
