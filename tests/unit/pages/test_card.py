from __future__ import annotations

import re
from html import escape
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from mosaic_ray.pages.card import card, size_category
from mosaic_ray.records import REASONS
from mosaic_ray.views import ViewSchema


def header(text: str) -> dict[str, Any]:
    """As ``datasets`` finds it: from the first line, which is ``---``, to the next such line."""
    first, *lines = text.splitlines()
    assert first == "---"
    return dict(yaml.safe_load("\n".join(lines[: lines.index("---")])))


def section(text: str, title: str, mark: str = "## ") -> str:
    return text.split(f"{mark}{title}", 1)[1].split(f"\n{mark}", 1)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of the tables of a text, as a renderer of Markdown splits them."""
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]


def test_the_header_is_what_loaders_and_the_hub_read(manifest: dict[str, Any]) -> None:
    assert header(card(manifest)) == {
        "task_categories": ["text-generation"],
        "size_categories": ["n<1K"],
        "tags": ["instruction-tuning", "mosaic-it"],
        "configs": [
            {
                "config_name": "default",
                "description": manifest["dataset_digest"],
                "data_files": [{"split": "train", "path": "data/train-*.parquet"}],
            },
        ],
    }


def test_no_text_of_others_reaches_the_header(manifest: dict[str, Any]) -> None:
    plain = header(card(manifest))
    manifest["tokenizer"]["name"] = manifest["places"]["input"][0] = "---\nconfigs: []\n---\n"
    manifest["inventory"][0]["name"] = "--- : {["
    assert header(card(manifest)) == plain
    manifest["method"]["name"] = "a: [b]\n---\n# c"
    assert header(card(manifest))["tags"] == ["instruction-tuning", "a: [b]\n---\n# c"]


@pytest.mark.parametrize(
    ("samples", "category"),
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**12 - 1, "100B<n<1T"), (10**12, "n>1T")],
)
def test_size_category(samples: int, category: str) -> None:
    assert size_category(samples) == category


def test_the_same_data_set_has_the_same_card_wherever_and_whenever_it_is_made(manifest: dict[str, Any]) -> None:
    before = card(manifest)
    manifest["places"]["output"] = "s3://elsewhere"
    manifest["created"] = {"finished": "2001-01-01T00:00:00+00:00"}
    assert card(manifest) == before


@pytest.mark.parametrize("view", ["messages", "prompt-completion", "alpaca"])
@pytest.mark.parametrize("template", [None, "{{ messages }}"])
def test_every_column_of_the_view_is_explained(manifest: dict[str, Any], view: Any, template: str | None) -> None:
    manifest["settings"]["view"], manifest["tokenizer"]["chat_template"] = view, template
    listed = rows(section(card(manifest), "Columns"))[2:]
    schema = ViewSchema(view, template is not None).schema
    assert [name.strip("`") for name, _, _ in listed] == schema.names
    assert all(len(meaning) > 10 for _, _, meaning in listed)
    texts = {name.strip("`"): kind for name, kind, _ in listed}
    assert texts["sources"] == "list of `file` and `row`"
    assert texts[schema.names[0]] == (
        "`string`" if schema.field(0).type == "string" else "list of `role` and `content`"
    )


def test_the_accounting_adds_up_on_the_card(manifest: dict[str, Any]) -> None:
    listed = rows(section(card(manifest), "Where the records went"))[2:]
    assert len(listed) == 4
    for epoch, row in enumerate(listed):
        number, composed, passed, rejected, total, samples, tokens = (int(cell.replace(",", "")) for cell in row)
        assert (number, passed, rejected, total) == (epoch, 1, 6, 127)
        assert composed + passed + rejected == total
        assert samples == manifest["epochs"][epoch]["samples"]
        assert tokens == manifest["epochs"][epoch]["tokens"]


def test_a_snapshot_says_what_it_goes_on_from(manifest: dict[str, Any]) -> None:
    alone = card(manifest)
    manifest["since"] = {"run": None, "files": {"new": 2, "changed": 0}}
    assert card(manifest) == alone
    manifest["since"] = {"run": "abc", "dataset_digest": "d1g3st", "files": {"new": 1234, "changed": 5}}
    said = " ".join(card(manifest).split())
    assert "new (1,234) or changed (5) since the data set with the digest `d1g3st`" in said
    assert len(card(manifest).splitlines()) > len(alone.splitlines())


def test_many_epochs_are_cut_short(manifest: dict[str, Any]) -> None:
    manifest["accounting"]["epochs"] *= 250
    manifest["epochs"] *= 250
    text = section(card(manifest), "Where the records went")
    assert len(rows(text)[2:]) == 20
    assert "and 980 epochs more, in `manifest.json`" in text


def test_policies_are_named_where_they_met_a_record(manifest: dict[str, Any]) -> None:
    assert "special token" not in section(card(manifest), "Where the records went")
    manifest["policies"].update(special_tokens=1, first_turn_only=2000)
    text = section(card(manifest), "Where the records went")
    assert "\n1 record freed of a spelt special token.\n" in text
    assert "\n2,000 records cut to the first turn" in text


def test_rejects_are_listed_by_reason_with_its_meaning(manifest: dict[str, Any]) -> None:
    manifest["rejects"] = {"records": 3001, "by_reason": {"not_json": 1, "overlong": 3000}, "parts": []}
    text = section(card(manifest), "Rejected records")
    assert rows(text)[2:] == [
        ["`overlong`", "3,000", ">99.9%", REASONS["overlong"]],
        ["`not_json`", "1", "<0.1%", REASONS["not_json"]],
    ]
    assert "3,001 records of 127" in text
    manifest["rejects"] = {"records": 0, "by_reason": {}, "parts": []}
    assert section(card(manifest), "Rejected records").strip() == "None."


def test_every_setting_and_the_tokenizer_are_named(manifest: dict[str, Any]) -> None:
    listed = dict(row[:2] for row in rows(section(card(manifest), "How it was made"))[2:])
    for name in (*manifest["settings"], "tiles", "max_tiles", "strategies"):
        assert f"`{name}`" in listed
    assert listed["`max_tokens`"] == "`600`"
    assert listed["`strategies`"] == "`format, permute, maskout`"
    assert manifest["tokenizer"]["digest"] in listed["tokenizer"]
    assert manifest["dataset_digest"] in listed["data set"]


@pytest.mark.parametrize(
    "name", ["a | b", "``` x", "<script>alert(1)</script>", "line\n# title", "\\|", "**b** [l](u)"]
)
def test_foreign_names_stay_in_their_cell(manifest: dict[str, Any], name: str) -> None:
    manifest["tokenizer"]["name"] = name
    manifest["settings"]["columns"] = {"instruction": name}
    text = card(manifest)
    assert {len(row) for row in rows(section(text, "How it was made"))} == {2}
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    assert f"<td>tokenizer</td>\n<td><code>{escape(name).replace(chr(10), '⟨U+000A⟩')}</code>, digest " in rendered
    assert rendered.count("<h2>") == 6
    assert rendered.count("<a ") == 1
    assert not re.search("<(script|b|strong|pre)>", section(rendered, "How it was made", "<h2>"))


def test_the_way_to_load_and_to_check_it(manifest: dict[str, Any]) -> None:
    text = card(manifest)
    assert 'load_dataset("DIRECTORY", split="train")' in section(text, "Load it")
    assert "4 epochs" in section(text, "Load it")
    assert "600 tokens" in section(text, "Load it")
    assert f"mosaic-ray explain DIRECTORY/{manifest['parts'][0]['name']}:0" in section(text, "Check it")


@pytest.mark.parametrize("template", [None, "{{ messages }}"])
@pytest.mark.parametrize("view", ["messages", "prompt-completion", "alpaca"])
def test_no_length_is_promised_where_the_trainer_adds_tokens(
    manifest: dict[str, Any], view: str, template: str | None
) -> None:
    manifest["settings"]["view"], manifest["tokenizer"]["chat_template"] = view, template
    manifest["tokenizer"]["counted"] = "so and so"
    text = " ".join(section(card(manifest), "Load it").split())
    adds = view == "alpaca" or (view == "messages" and template is None)
    assert ("cuts no sample short" in text) is not adds
    assert ("not counted, so leave room for them: give the trainer a maximal length above 600 tokens." in text) is adds
    assert ("axolotl and LLaMA-Factory" in text) is (view == "alpaca")
    assert ("renders `messages` by a chat template" in text) is (adds and view == "messages")
    assert ("`so and so`" in text) is adds


def test_a_method_without_a_description_still_has_a_card(manifest: dict[str, Any]) -> None:
    manifest["method"]["name"] = "another"
    text = card(manifest)
    assert "with the method\n`another`" in text or "with the method `another`" in text
    assert "2405.13326" not in text
