"""The shipped corpus and tokenizer: made by make.py, right, and fit for the readers and for trainers."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from mosaic_ray import embedded
from mosaic_ray.embedded import make
from mosaic_ray.embedded.entry import Entry
from mosaic_ray.embedded.generated import arithmetic, json_text, lists, lookup, sorting
from mosaic_ray.embedded.generated.draws import Template
from mosaic_ray.io.shapes import recognise, to_record
from mosaic_ray.records import Record, Source
from mosaic_ray.seeding import Key

FILES = ("arithmetic", "code", "json", "languages", "lists", "lookup", "sorting", "text")
WRITTEN = Path(embedded.__file__).parent / "written"
TEMPLATES = [
    *arithmetic.TEMPLATES, *json_text.TEMPLATES, *lists.TEMPLATES, *lookup.TEMPLATES, *sorting.TEMPLATES
]  # fmt: skip


def rows(name: str) -> list[dict[str, Any]]:
    text = (embedded.corpus_path() / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def records(name: str) -> list[Record]:
    """The file as the readers give it to a method; fails on a reject."""
    found = rows(name)
    shape = recognise(set(found[0]), found, file=name)
    read = [to_record(row, shape, Source(name, place), multi_turn="pass") for place, row in enumerate(found)]
    assert all(isinstance(record, Record) for record in read), read
    return [record for record in read if isinstance(record, Record)]


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[Record]]:
    return {name: records(name) for name in FILES}


@pytest.fixture(scope="module")
def loaded() -> Any:
    return AutoTokenizer.from_pretrained(str(embedded.tokenizer_path()))


class TestMake:
    @pytest.mark.parametrize("threads", ["1", "2"])
    def test_the_shipped_files_are_what_it_makes_in_any_process(self, tmp_path: Path, threads: str) -> None:
        script = (
            "import sys; from pathlib import Path; from mosaic_ray.embedded.make import make; "
            "make(corpus_to=Path(sys.argv[1]) / 'corpus', tokenizer_to=Path(sys.argv[1]) / 'tokenizer')"
        )
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        package_root = Path(embedded.__file__).parents[2]
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=package_root, env=environment)
        for shipped in (embedded.corpus_path(), embedded.tokenizer_path()):
            made = {path.name: path.read_bytes() for path in (tmp_path / shipped.name).iterdir()}
            assert made == {path.name: path.read_bytes() for path in shipped.iterdir()}

    def test_the_package_stays_small(self) -> None:
        directory = Path(embedded.__file__).parent
        assert sum(path.stat().st_size for path in directory.rglob("*") if path.suffix != ".pyc") < 700_000


class TestCorpus:
    def test_eight_files_of_sixty_records(self, corpus: dict[str, list[Record]]) -> None:
        assert {path.name for path in embedded.corpus_path().iterdir()} == {f"{name}.jsonl" for name in FILES}
        assert {name: len(found) for name, found in corpus.items()} == dict.fromkeys(FILES, 60)

    def test_every_shape_that_the_readers_know_occurs(self) -> None:
        kinds = {name: recognise(set(rows(name)[0]), rows(name), file=name).kind for name in FILES}
        assert set(kinds.values()) == {"instruction", "prompt", "question", "messages", "conversations"}
        assert kinds["text"] == "messages"
        assert kinds["languages"] == "conversations"
        assert {frozenset(row) for name in FILES for row in rows(name)} == {
            frozenset(columns.split())
            for columns in (
                "instruction input output",
                "instruction context response",
                "prompt completion",
                "prompt response",
                "question answer",
                "messages",
                "conversations",
            )
        }

    def test_instructions_are_unique(self, corpus: dict[str, list[Record]]) -> None:
        counts = Counter(record.messages[:-1] for found in corpus.values() for record in found)
        assert [text for text, count in counts.items() if count > 1] == []

    def test_some_conversations_are_whole(self, corpus: dict[str, list[Record]]) -> None:
        whole = [record for record in corpus["text"] if record.whole]
        assert sum(record.messages[0].role == "system" for record in whole) >= 4
        assert sum(len(record.messages) > 3 for record in whole) >= 4
        assert not any(record.whole for name in FILES if name != "text" for record in corpus[name])

    def test_lengths_run_from_five_to_three_hundred_words(self, corpus: dict[str, list[Record]]) -> None:
        words = [
            sum(len(message.content.split()) for message in record.messages)
            for name, found in corpus.items()
            if name != "languages"
            for record in found
        ]
        assert 5 <= min(words) < 15
        assert 250 < max(words) <= 300

    def test_at_least_half_is_written_by_hand(self) -> None:
        count = sum(len(tomllib.loads(path.read_text(encoding="utf-8"))["record"]) for path in WRITTEN.iterdir())
        assert count >= 240

    def test_no_text_spells_a_special_token(self, corpus: dict[str, list[Record]]) -> None:
        text = "\n".join(
            message.content for found in corpus.values() for record in found for message in record.messages
        )
        assert not any(token in text for token in make.SPECIAL_TOKENS)

    @pytest.mark.parametrize(
        ("script", "records_with_it"),
        [("CJK", 10), ("HIRAGANA", 5), ("HANGUL", 2), ("ARABIC", 5), ("DEVANAGARI", 5), ("CYRILLIC", 4)],
    )
    def test_scripts(self, corpus: dict[str, list[Record]], script: str, records_with_it: int) -> None:
        def has_script(record: Record) -> bool:
            return any(unicodedata.name(letter, "").startswith(script) for letter in record.messages[0].content)

        assert sum(map(has_script, corpus["languages"])) >= records_with_it

    @pytest.mark.parametrize("word", ["cuál", "wie", "quelle", "qual", "spiega", "başkenti"])
    def test_languages_in_latin_script(self, corpus: dict[str, list[Record]], word: str) -> None:
        questions = " ".join(record.instruction for record in corpus["languages"]).lower()
        assert re.search(rf"\b{word}\b", questions)


NUMBER = r"\d+(?:\.\d+)?"
OPERAND = rf"\(?-?{NUMBER}\)?"
EQUATION = re.compile(rf"(?<![\w.])({OPERAND}(?: [-+×÷] {OPERAND})+) = (-?{NUMBER})(?![\d×÷])")  # noqa: RUF001


def wrong_equations(text: str) -> list[str]:
    """The equations of a text that do not hold, evaluated in exact fractions."""
    wrong = []
    for match in EQUATION.finditer(text):
        exact = re.sub(NUMBER, lambda number: f"Fraction('{number.group()}')", match[1])
        value = eval(exact.replace("×", "*").replace("÷", "/"), {"Fraction": Fraction})  # noqa: RUF001
        if value != Fraction(match[2]):
            wrong.append(match.group())
    return wrong


class TestAnswersAreRight:
    def test_the_evaluation_itself_sees_a_wrong_equation(self) -> None:
        text = "1. 4 + 5 = 9, then 2 × (3 + 4) = 15 and 1.50 + 2.25 = 3.75; 7x = 3 - 1 = 3"  # noqa: RUF001
        assert wrong_equations(text) == ["2 × (3 + 4) = 15", "3 - 1 = 3"]  # noqa: RUF001

    def test_every_equation_holds(self, corpus: dict[str, list[Record]]) -> None:
        texts = [record.response for found in corpus.values() for record in found]
        assert [equation for text in texts for equation in wrong_equations(text)] == []
        assert sum(len(EQUATION.findall(record.response)) for record in corpus["arithmetic"]) > 120

    def test_an_answer_is_what_the_working_arrives_at(self, corpus: dict[str, list[Record]]) -> None:
        worked = [record.response.split("Answer: ") for record in corpus["arithmetic"] if "Answer: " in record.response]
        assert len(worked) > 50
        for working, answer in worked:
            assert set(re.findall(NUMBER, answer)) <= set(re.findall(NUMBER, working)), (working, answer)

    @given(template=st.sampled_from(TEMPLATES), number=st.integers(min_value=0))
    def test_templates_hold_for_every_draw(self, template: Template, number: int) -> None:
        entry = template(Key("test", number).draw())
        assert entry.ask.strip() == entry.ask != ""
        assert entry.answer.strip() == entry.answer != ""
        assert wrong_equations(entry.answer) == []
        if template in json_text.TEMPLATES:
            assert_json_is_valid(entry.answer)
        if template in sorting.TEMPLATES:
            assert_sorted(entry)

    def test_fenced_json_is_valid(self, corpus: dict[str, list[Record]]) -> None:
        for record in corpus["json"]:
            assert_json_is_valid(record.response)
        assert sum("```json" in record.response for record in corpus["json"]) > 15

    @pytest.mark.parametrize(
        "record",
        tomllib.loads((WRITTEN / "code.toml").read_text(encoding="utf-8"))["record"],
        ids=lambda r: r["ask"][:40],
    )
    def test_code_runs_and_gives_what_it_should(self, record: dict[str, str], tmp_path: Path) -> None:
        blocks = re.findall(r"^```(python|sql|bash)\n(.*?)^```$", record["answer"] + "\n", re.MULTILINE | re.DOTALL)
        assert bool(blocks) == ("gives" in record), "an answer with code needs `gives`, and only such an answer"
        if blocks:
            script = "\n".join([record.get("before", ""), *(code for _, code in blocks), record.get("after", "")])
            assert collapsed(printed(blocks[0][0], script, tmp_path)) == collapsed(record["gives"])


def assert_json_is_valid(answer: str) -> None:
    for block in re.findall(r"```json\n(.*?)```", answer, re.DOTALL):
        json.loads(block)
    if answer.startswith(("{", "[")):
        for line in answer.splitlines():
            json.loads(line)


RULES: tuple[tuple[str, Callable[[list[str], re.Match[str]], list[str]]], ...] = (
    (r"reverse alphabetical|from Z to A", lambda items, _: sorted(items, key=str.casefold)[::-1]),
    (r"[Aa]lphabet", lambda items, _: sorted(items, key=str.casefold)),
    (r"ascending|smallest to largest", lambda items, _: sorted(items, key=Fraction)),
    (r"descending|largest to smallest", lambda items, _: sorted(items, key=Fraction, reverse=True)),
    (r"by their length", lambda items, _: sorted(items, key=len)),
    (r"Reverse the order|backwards", lambda items, _: list(reversed(items))),
    (r"repeated words", lambda items, _: [item for place, item in enumerate(items) if item not in items[:place]]),
    (r"Copy|word for word|unchanged", lambda items, _: items),
    (r'start with "(.)"', lambda items, match: [item for item in items if item[0] == match[1]]),
    (r"every second item", lambda items, _: [item for place, item in enumerate(items) if place % 2 == 0]),
    (r"capital letters|upper case", lambda items, _: [item.upper() for item in items]),
    (r"earliest to the latest", lambda items, _: sorted(items, key=lambda date: tuple(map(int, date.split("-"))))),
    (r"first (\d) items", lambda items, match: items[int(match[1]) :] + items[: int(match[1])]),
    (r"first item of", lambda items, _: [*items[1:], items[0]]),
)


def assert_sorted(entry: Entry) -> None:
    """The answer against the rule that its question states, written anew."""
    separator = "\n" if "\n" in entry.given else ", "
    rule, match = next((rule, match) for pattern, rule in RULES if (match := re.search(pattern, entry.ask)))
    assert entry.answer.split(separator) == rule(entry.given.split(separator), match)


def printed(language: str, script: str, directory: Path) -> str:
    if language == "sql":
        database = sqlite3.connect(":memory:")
        found = [row for statement in script.split(";") for row in database.execute(statement).fetchall()]
        return "\n".join("|".join(map(str, row)) for row in found)
    command = [sys.executable, "-I", "-c", script] if language == "python" else ["bash", "-c", script]
    environment = os.environ | {"LC_ALL": "C"}
    return subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=directory, env=environment, timeout=30
    ).stdout


def collapsed(text: str) -> list[Sequence[str]]:
    """Lines of words: how wide a tool pads its columns differs between systems."""
    return [line.split() for line in text.strip().splitlines()]


class TestTokenizer:
    def test_vocabulary(self, loaded: Any) -> None:
        assert len(loaded) == loaded.vocab_size == 4096
        assert [loaded.convert_tokens_to_ids(token) for token in make.SPECIAL_TOKENS] == list(range(7))
        assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == ("<|bos|>", "<|eos|>", "<|pad|>")
        assert loaded.all_special_tokens == list(make.SPECIAL_TOKENS)

    @given(st.text(st.characters(exclude_categories=["Cs"])) | st.text("a1 \n\t'é́क्षि中😀<|>", max_size=60))
    def test_any_text_comes_back(self, text: str) -> None:
        tokens = tokenizer().encode(text)
        assert tokenizer().decode(tokens.ids, skip_special_tokens=False) == text
        assert len(tokens.ids) <= len(text.encode())

    def test_special_tokens_are_single_ids_inside_a_text(self) -> None:
        assert tokenizer().encode("a<|end|>b").tokens == ["a", "<|end|>", "b"]

    def test_digits_stand_alone_and_marks_stay_with_their_letters(self) -> None:
        assert tokenizer().encode("2026").tokens == ["2", "0", "2", "6"]
        pieces = tokenizer().pre_tokenizer.pre_tokenize_str("हिन्दी में")
        assert [end - start for _, (start, end) in pieces] == [6, 4]

    def test_it_is_shorter_than_bytes_on_its_corpus(self, corpus: dict[str, list[Record]]) -> None:
        text = "\n".join(record.response for record in corpus["text"])
        assert len(tokenizer().encode(text).ids) < len(text) / 3

    def test_template(self, loaded: Any) -> None:
        conversation = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "  Hello\n"},
        ]
        text = "<|bos|><|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n"
        assert loaded.apply_chat_template(conversation, tokenize=False) == text + "  Hello\n<|eos|>\n"
        assert loaded.apply_chat_template(conversation[:2], tokenize=False, add_generation_prompt=True) == text

    def test_assistant_mask_is_the_answer_and_its_end(self, loaded: Any, corpus: dict[str, list[Record]]) -> None:
        for record in corpus["text"]:
            turns = [{"role": message.role, "content": message.content} for message in record.messages]
            encoded = loaded.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
            learned = [i for i, kept in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if kept]
            answers = [message.content for message in record.messages if message.role == "assistant"]
            assert loaded.decode(learned) == "".join(f"{answer}<|eos|>" for answer in answers)

    @pytest.mark.parametrize(
        ("turn", "words"),
        [
            ({"role": "tool", "content": "x"}, "must be system, user or assistant"),
            ({"role": "user", "content": [{"type": "text", "text": "x"}]}, "must be a text"),
        ],
    )
    def test_template_refuses_what_it_would_render_wrongly(self, loaded: Any, turn: Any, words: str) -> None:
        with pytest.raises(Exception, match=words):
            loaded.apply_chat_template([turn], tokenize=False)


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(embedded.tokenizer_path() / "tokenizer.json"))
