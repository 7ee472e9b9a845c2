"""A report as a parser of HTML sees it, and pieces to make one of."""

from __future__ import annotations

from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

from mosaic_ray.pages.report import report
from mosaic_ray.pages.samples import Shown
from mosaic_ray.records import Message

VOID = {"meta", "br", "input"}


class Page(HTMLParser):
    """Elements with their attributes and text; a tag that is not closed in its turn fails."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[int] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        """What stands on a badge is no part of the text around it, nor of what is copied."""
        badges = [n for n, place in enumerate(self.open) if self.elements[place][1].get("class") == "badge"]
        for place in self.open[badges[0] if badges else 0 :]:
            self.elements[place][2].append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def all(self, tag: str) -> list[tuple[dict[str, str], str]]:
        return [(attributes, "".join(text)) for name, attributes, text in self.elements if name == tag]

    def texts(self, tag: str) -> list[str]:
        return [text for _, text in self.all(tag)]

    def table(self, label: str) -> list[list[str]]:
        """Rows of the first table of this label, without its heads."""
        start = next(i for i, (_, attributes, _) in enumerate(self.elements) if attributes.get("aria-label") == label)
        table: list[list[str]] = []
        for tag, _, text in self.elements[start + 2 :]:
            if tag == "table":
                break
            if tag == "tr":
                table.append([])
            if tag == "td":
                table[-1].append("".join(text))
        return [row for row in table if row]

    def section(self, name: str) -> str:
        return next(t for attributes, t in self.all("section") if attributes["id"] == name)


def shown(text: str = "Do it.", **changes: Any) -> Shown:
    row = {
        "mosaic_id": "e0-t00000-s000000",
        "tiles": 2,
        "strategy": "permute",
        "kind": "reversed",
        "params": '{"layout":{"number":{"shape":"Q{n}"},"frame":null},"order":[2,1]}',
        "token_count": 1664,
        "sources": [{"file": "a.jsonl", "row": 1234}, {"file": "b.jsonl", "row": 0}],
    }
    messages = (Message("user", text), Message("assistant", "Done."))
    part = "data/train-00000-of-00001.parquet"
    return Shown(part=part, number=3, messages=messages, row={**row, **changes}, outline=None)


def reject(**changes: Any) -> dict[str, Any]:
    return {"file": "a.jsonl", "row": 1234, "reason": "not_json", "detail": "at 0", "excerpt": "{", **changes}


def page_of(
    manifest: Mapping[str, Any],
    *samples: Shown,
    rejects: list[dict[str, Any]] | None = None,
    drawn_from: Mapping[int, int] | None = None,
) -> Page:
    return Page(report(manifest, samples, rejects or [], drawn_from or {}))
