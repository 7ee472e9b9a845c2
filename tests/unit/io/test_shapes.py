from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.errors import InputError, SettingsError
from mosaic_ray.io.shapes import Shape, check_mapping, excerpt, mapping_applies, recognise, to_record
from mosaic_ray.records import REASONS, Message, Record, Reject, Source

HERE = Source("a.jsonl", 7)
PLAIN = Shape(kind="instruction", columns={"instruction": "instruction", "response": "output", "input": "input"})
SYSTEM = Shape(kind="question", columns={"instruction": "question", "response": "answer", "system": "system"})
MESSAGES = Shape(kind="messages", columns={"messages": "messages"})
SHAREGPT = Shape(kind="conversations", columns={"messages": "conversations"})


def shape_of(row: dict[str, Any], mapping: dict[str, str] | None = None) -> Shape:
    return recognise(list(row), [row], mapping=mapping, file="s3://b/a.jsonl")


@pytest.mark.parametrize(
    ("row", "kind", "columns"),
    [
        ({"instruction": "", "output": ""}, "instruction", {"instruction": "instruction", "response": "output"}),
        (
            {"instruction": "", "response": "", "context": ""},
            "instruction",
            {"instruction": "instruction", "response": "response", "input": "context"},
        ),
        (
            {"instruction": "", "output": "", "response": "", "input": "", "context": ""},
            "instruction",
            {"instruction": "instruction", "response": "output", "input": "input", "context": "context"},
        ),
        (
            {"prompt": "", "response": "", "system_prompt": "", "history": []},
            "prompt",
            {"instruction": "prompt", "response": "response", "system": "system_prompt", "history": "history"},
        ),
        (
            {"messages": [{"role": "user", "content": ""}], "system": "", "system_prompt": "", "history": []},
            "messages",
            {"messages": "messages", "system": "system", "system_prompt": "system_prompt"},
        ),
        ({"prompt": "", "completion": "", "id": 1}, "prompt", {"instruction": "prompt", "response": "completion"}),
        ({"prompt": "", "response": ""}, "prompt", {"instruction": "prompt", "response": "response"}),
        (
            {"question": "", "answer": "", "system": ""},
            "question",
            {"instruction": "question", "response": "answer", "system": "system"},
        ),
        (
            {"messages": [{"role": "user", "content": ""}], "prompt": "", "completion": ""},
            "messages",
            {"messages": "messages"},
        ),
        ({"conversations": [{"from": "human", "value": ""}]}, "conversations", {"messages": "conversations"}),
        ({"conversations": [{"role": "user", "content": ""}]}, "messages", {"messages": "conversations"}),
        ({"messages": [{"from": "human", "value": ""}]}, "conversations", {"messages": "messages"}),
        ({"messages": None}, "messages", {"messages": "messages"}),
        (
            {"messages": "a note", "instruction": "", "output": ""},
            "instruction",
            {"instruction": "instruction", "response": "output"},
        ),
    ],
)
def test_shapes_are_recognised_in_their_order(row: dict[str, Any], kind: str, columns: dict[str, str]) -> None:
    assert shape_of(row) == Shape(kind=kind, columns=columns)  # type: ignore[arg-type]


def test_an_unknown_shape_names_the_file_its_columns_and_the_remedy() -> None:
    with pytest.raises(InputError) as failure:
        shape_of({"q": "", "a": ""})
    message = str(failure.value)
    assert message.startswith(
        "s3://b/a.jsonl: its columns (a, q) fit no known shape (messages; conversations; instruction"
    )
    assert "--columns instruction=COLUMN,response=COLUMN" in message


def test_of_a_hundred_thousand_columns_a_few_are_named() -> None:
    row = {f"column {number:06d}": "" for number in range(100_000)}
    mapping = {"instruction": "column 000000", "response": "column 000001", "input": "none"}
    for roles in (None, mapping):
        with pytest.raises(
            InputError, match=r"column 000000, column 000001, .*, column 000029 and 99,970 more\)"
        ) as failure:
            shape_of(row, roles)
        assert len(str(failure.value)) < 1000


def test_names_of_columns_are_cut_and_spelt_out_on_one_line() -> None:
    with pytest.raises(InputError) as failure:
        shape_of({"a\nb\x1b[31m\u202e": "", "x" * 1_000_000: "", "\ud800": ""})
    message = str(failure.value)
    assert message.startswith(
        f"s3://b/a.jsonl: its columns (a⟨U+000A⟩b⟨U+001B⟩[31m⟨U+202E⟩, {'x' * 60}, ⟨U+D800⟩) fit no"
    )
    assert message.isprintable()


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"instruction": {"a": ["x" * 1_000_000]}, "output": "b"}, PLAIN),
        ({"instruction": "a", "output": ["x\n" * 500_000]}, PLAIN),
        ({"x" * 1_000_000: 1, "output": "\x1b"}, PLAIN),
        ({str(number): "\ud800" for number in range(100_000)}, PLAIN),
        ({"messages": "x" * 1_000_000}, MESSAGES),
        ({"messages": [{"role": "\n" * 1_000_000, "content": "a"}]}, MESSAGES),
        ({"messages": [{"role": ["\ud800"] * 100_000, "content": "a"}]}, MESSAGES),
        ({"messages": [{"role": "user", "content": {"x" * 1_000_000: 1}}]}, MESSAGES),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_whatever_is_wrong_little_is_said_of_it(row: dict[str, Any], shape: Shape) -> None:
    made = to_record(row, shape, HERE, multi_turn="pass")
    assert isinstance(made, Reject)
    assert len(made.detail) <= 250
    assert made.detail.isprintable()
    assert len(made.excerpt.encode()) <= 800


@given(st.text("\n\t \x0b\x85\u2028ab", max_size=30))
def test_blank_lines_in_front_go_and_indentation_stays(text: str) -> None:
    made = to_record({"instruction": "a", "output": text}, PLAIN, HERE, multi_turn="pass")
    if not text.strip():
        assert isinstance(made, Reject)
        return
    lines = text.split("\n")
    first = next(number for number, line in enumerate(lines) if line.strip())
    assert isinstance(made, Record)
    assert made.response == "\n".join(lines[first:]).rstrip()


def test_a_mapping_goes_first_where_it_applies() -> None:
    mapping = {"instruction": "q", "response": "a", "system": "s"}
    assert shape_of({"q": "", "a": "", "s": "", "messages": []}, mapping) == Shape(
        kind="columns", columns={"instruction": "q", "response": "a", "system": "s"}
    )
    untouched = shape_of({"q": "", "prompt": "", "completion": ""}, mapping)
    assert untouched.kind == "prompt"
    assert not mapping_applies(mapping, untouched.columns.values())
    assert mapping_applies(mapping, shape_of({"q": "", "a": "", "s": ""}, mapping).columns.values())


def test_a_mapped_optional_column_must_be_there() -> None:
    mapping = {"instruction": "q", "response": "a", "input": "extra"}
    with pytest.raises(InputError) as failure:
        shape_of({"q": "", "a": ""}, mapping)
    assert str(failure.value).startswith(
        "s3://b/a.jsonl: there is no column 'extra' in it for --columns input=extra (it has a, q); correct the name"
    )
    assert shape_of({"q": "", "a": "", "extra": None}, mapping).columns == mapping
    assert shape_of({"prompt": "", "completion": ""}, mapping).kind == "prompt"


def test_a_mapped_conversation_may_have_either_form() -> None:
    assert shape_of({"chat": [{"from": "human"}]}, {"messages": "chat"}).kind == "conversations"
    assert shape_of({"chat": [{"role": "user"}]}, {"messages": "chat"}).kind == "messages"


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"instruktion": "q", "response": "a"}, "there is no role 'instruktion'; the roles are instruction, response"),
        ({"instruction": "q"}, "give instruction=COLUMN,response=COLUMN"),
        ({}, "give instruction=COLUMN,response=COLUMN"),
        ({"messages": "m", "system": "s"}, "messages holds the whole conversation; give it alone"),
    ],
)
def test_a_mapping_that_cannot_work_is_refused(mapping: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        check_mapping(mapping)


def record(row: dict[str, Any], shape: Shape = PLAIN, multi_turn: Any = "pass") -> Record:
    made = to_record(row, shape, HERE, multi_turn=multi_turn)
    assert isinstance(made, Record), made
    assert made.source == HERE
    return made


def reject(row: dict[str, Any], shape: Shape = PLAIN, multi_turn: Any = "pass") -> Reject:
    made = to_record(row, shape, HERE, multi_turn=multi_turn)
    assert isinstance(made, Reject), made
    assert made.reason in REASONS
    assert made.source == HERE
    made.excerpt.encode("utf-8")
    made.detail.encode("utf-8")
    return made


@pytest.mark.parametrize(
    ("instruction", "input_text", "expected"),
    [
        (" Add. \n", None, "Add."),
        ("Add.", "", "Add."),
        ("Add.", " \n", "Add."),
        ("Add.\n", "\n  1\n  2\n", "Add.\n  1\n  2"),
        ("", "1 2", "1 2"),
        ("a\0b", None, "a\0b"),
    ],
)
def test_input_follows_the_instruction(instruction: str, input_text: str | None, expected: str) -> None:
    assert record({"instruction": instruction, "input": input_text, "output": "x"}).instruction == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [("\n \r\n    return 1\n\n", "    return 1"), ("  x", "  x"), ("x \t\n", "x"), ("\n\n- a\n- b", "- a\n- b")],
)
def test_a_response_keeps_the_indentation_of_its_first_line(output: str, expected: str) -> None:
    assert record({"instruction": "i", "output": output}).response == expected


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ({"instruction": "i"}, "missing_column", "there is no 'output'; the row has 'instruction'"),
        ({}, "missing_column", "there is no 'instruction'; the row has no columns"),
        ({"instruction": None, "output": "o"}, "not_a_string", "'instruction' is null"),
        ({"instruction": "i", "output": 3}, "not_a_string", "'output' is a number"),
        ({"instruction": "i", "output": True}, "not_a_string", "'output' is a boolean"),
        ({"instruction": "i", "input": ["x"], "output": "o"}, "not_a_string", "'input' is a list"),
        ({"instruction": " \n", "input": "", "output": "o"}, "empty_instruction", "the user's text is ''"),
        ({"instruction": "i", "output": " \n "}, "empty_response", "the assistant's text is ' \\n '"),
        ({"instruction": "i\ud800", "output": "o"}, "lone_surrogate", "the user's text, character 1"),
        ({"instruction": "i", "output": "\udfff"}, "lone_surrogate", "the assistant's text, character 0"),
    ],
)
def test_unusable_rows(row: dict[str, Any], reason: str, detail: str) -> None:
    made = reject(row)
    assert (made.reason, made.detail) == (reason, detail)


def turns(*pairs: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


def test_a_conversation_of_two_turns_is_a_plain_record() -> None:
    made = record(turns(("user", " q "), ("assistant", "\n  a ")), MESSAGES)
    assert made.messages == (Message("user", "q"), Message("assistant", "  a"))
    assert not made.whole
    parts = [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]
    assert record(turns(("user", parts), ("assistant", "a")), MESSAGES).instruction == "xy"


def test_sharegpt_speakers() -> None:
    for user, assistant in (("human", "gpt"), ("user", "assistant"), ("human", "bing"), ("human", "chatgpt")):
        row = {"conversations": [{"from": user, "value": "q"}, {"from": assistant, "value": "a"}]}
        assert record(row, SHAREGPT).messages == (Message("user", "q"), Message("assistant", "a"))


LONG = (("system", " be brief "), ("user", " q1 "), ("assistant", "a1 "), ("user", "q2"), ("assistant", "a2"))


def test_the_policy_for_longer_conversations() -> None:
    passed = record(turns(*LONG), MESSAGES)
    assert passed.messages == tuple(Message(*turn) for turn in LONG)
    assert passed.whole
    assert not passed.trimmed
    first = record(turns(*LONG), MESSAGES, "first")
    assert first.messages == (Message("user", "q1"), Message("assistant", "a1"))
    assert first.trimmed
    assert record(turns(*LONG[1:]), MESSAGES, "first").messages == first.messages
    rejected = reject(turns(*LONG), MESSAGES, "reject")
    assert (rejected.reason, rejected.detail) == ("multi_turn", "it has a system prompt and 2 questions")
    assert reject(turns(*LONG[1:]), MESSAGES, "reject").detail == "it has 2 questions"


def test_optional_columns_are_looked_up_in_every_row() -> None:
    bare = Shape(kind="instruction", columns={"instruction": "instruction", "response": "output"})
    row = {"instruction": "i", "output": "o"}
    for more in ({"input": "x"}, {"context": "x"}, {"input": "", "context": "x"}, {"input": "x", "context": "y"}):
        assert record({**row, **more}, bare).instruction == "i\nx"
    for name in ("system", "system_prompt"):
        assert record({**row, name: "s"}, bare).messages[0] == Message("system", "s")
    assert reject({**row, "context": 3}, bare).detail == "'context' is a number"
    mapped = Shape(kind="columns", columns={"instruction": "instruction", "response": "output", "input": "extra"})
    assert record({**row, "extra": "x", "context": "y", "system": "s", "history": 3}, mapped).messages == (
        Message("user", "i\nx"),
        Message("assistant", "o"),
    )
    assert record(row, mapped).instruction == "i"


@pytest.mark.parametrize("name", ["system", "system_prompt"])
def test_a_system_column_beside_a_conversation_leads_it(name: str) -> None:
    two = turns(("user", "q"), ("assistant", "a"))
    spoken = (Message("user", "q"), Message("assistant", "a"))
    assert record({**two, name: "s"}, MESSAGES).messages == (Message("system", "s"), *spoken)
    assert record({**two, name: "s"}, MESSAGES, "first").messages == spoken
    assert reject({**two, name: "s"}, MESSAGES, "reject").detail == "it has a system prompt and 1 question"
    assert record({**two, name: " "}, MESSAGES, "reject").messages == spoken
    assert reject({**two, name: ["s"]}, MESSAGES).reason == "not_a_string"
    own = turns(("system", "own"), ("user", "q"), ("assistant", "a"))
    assert record({**own, name: "s"}, MESSAGES).messages[0] == Message("system", "own")
    blank = turns(("system", ""), ("user", "q"), ("assistant", "a"))
    assert record({**blank, name: "s"}, MESSAGES).messages == (Message("system", "s"), *spoken)
    sharegpt = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], name: "s"}
    assert record(sharegpt, SHAREGPT).messages == (Message("system", "s"), *spoken)


def test_a_history_goes_before_the_question() -> None:
    row = {"instruction": "i", "input": "x", "output": "o", "history": [["q1", "a1"], ["q2", "a2"]]}
    earlier = [("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2")]
    whole = tuple(Message(*turn) for turn in [*earlier, ("user", "i\nx"), ("assistant", "o")])
    assert record(row).messages == whole
    assert record({**row, "system": "s"}).messages == (Message("system", "s"), *whole)
    first = record({**row, "system": "s"}, PLAIN, "first")
    assert (first.messages, first.trimmed) == (whole[:2], True)
    assert reject(row, PLAIN, "reject").detail == "it has 3 questions"
    for empty in (None, [], "", " "):
        assert not record({**row, "history": empty}, PLAIN, "reject").whole


@pytest.mark.parametrize(
    ("history", "detail"),
    [
        ("q1", "'history' is a string, not a list of pairs"),
        ({"q": "a"}, "'history' is an object, not a list of pairs"),
        (["q1", "a1"], "item 1 of 'history' is no pair of a question and an answer"),
        ([["q1", "a1"], ["q2"]], "item 2 of 'history' is no pair of a question and an answer"),
        ([["q1", None]], "item 1 of 'history' is no pair of a question and an answer"),
        ([["q1", "a1", "q2"]], "item 1 of 'history' is no pair of a question and an answer"),
    ],
)
def test_a_malformed_history(history: Any, detail: str) -> None:
    made = reject({"instruction": "i", "output": "o", "history": history})
    assert (made.reason, made.detail) == ("bad_messages", detail)


def test_a_system_column_makes_a_conversation() -> None:
    row = {"system": "s", "question": " q ", "answer": "a"}
    assert record(row, SYSTEM).messages == (Message("system", "s"), Message("user", "q"), Message("assistant", "a"))
    assert record(row, SYSTEM, "first").messages == (Message("user", "q"), Message("assistant", "a"))
    assert reject(row, SYSTEM, "reject").detail == "it has a system prompt and 1 question"


@pytest.mark.parametrize("system", [None, "", " \n"])
@pytest.mark.parametrize("policy", ["pass", "first", "reject"])
def test_a_blank_system_prompt_is_none(system: str | None, policy: str) -> None:
    made = record({"system": system, "question": "q", "answer": "a"}, SYSTEM, policy)
    assert made.messages == (Message("user", "q"), Message("assistant", "a"))
    assert not made.trimmed


@pytest.mark.parametrize(
    ("row", "detail"),
    [
        ({"messages": "hi"}, "'messages' is a string, not a list of turns"),
        ({"messages": None}, "'messages' is null, not a list of turns"),
        ({"messages": []}, "there is no question and answer in it"),
        ({"messages": ["hi"]}, "turn 1 is a string, not an object"),
        ({"messages": [{"content": "x"}]}, "turn 1 has the role None"),
        (turns(("system", "s")), "there is no question and answer in it"),
        (turns(("user", "q")), "turn 1, the last, is by user and has no answer"),
        (turns(*LONG, ("user", "q3")), "turn 6, the last, is by user and has no answer"),
        (turns(("assistant", "a"), ("user", "q")), "turn 1 is by assistant, where user should speak"),
        (turns(("system", "s"), ("user", "q"), ("user", "q")), "turn 3 is by user, where assistant should speak"),
        (turns(("user", "q"), ("system", "s")), "turn 2 is by system, where assistant should speak"),
        (turns(("user", "q"), ("tool", "t")), "turn 2 has the role 'tool'"),
        (turns(("human", "q"), ("gpt", "t")), "turn 1 has the role 'human'"),
        (turns(("user", "q"), ("assistant", None)), "turn 2 has null as its content, not a string"),
        (turns(("user", [{"type": "image"}]), ("assistant", "a")), "turn 1 has a part that is not text"),
    ],
)
def test_conversations_no_trainer_could_use(row: dict[str, Any], detail: str) -> None:
    for policy in ("pass", "first", "reject"):
        made = reject(row, MESSAGES, policy)
        assert (made.reason, made.detail) == ("bad_messages", detail)


def test_blank_turns_of_a_passed_conversation() -> None:
    assert reject(turns(*LONG[:3], ("user", " "), ("assistant", "a")), MESSAGES).reason == "empty_instruction"
    assert reject(turns(*LONG[:3], ("user", "q"), ("assistant", "")), MESSAGES).reason == "empty_response"
    assert record(turns(*LONG[:3], ("user", " "), ("assistant", "")), MESSAGES, "first").trimmed


def test_an_excerpt_is_short_and_can_be_written() -> None:
    assert excerpt({"a": "é\ud800"}) == '{"a": "é\\ud800"}'
    assert excerpt(b"  caf\xe9 \xff\n") == "caf\\xe9 \\xff"
    assert len(excerpt({"a": "x" * 1000})) == 200
    assert len(excerpt(b"\xff" * 1000)) == 200
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert excerpt(deep) == ""


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[]), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "type", "text"]), inner, max_size=3)
    ),
    max_leaves=8,
)
rows = st.dictionaries(
    st.sampled_from(["instruction", "output", "input", "system", "history", "messages", "conversations"]), values
)


@given(rows, st.sampled_from([PLAIN, MESSAGES, SHAREGPT]), st.sampled_from(["pass", "first", "reject"]))
def test_any_row_is_a_record_or_a_reject_with_a_known_reason(row: dict[str, Any], shape: Shape, policy: Any) -> None:
    made = to_record(row, shape, HERE, multi_turn=policy)
    if isinstance(made, Reject):
        assert made.reason in REASONS
        (made.detail + made.excerpt).encode("utf-8")
        return
    roles = [message.role for message in made.messages]
    assert roles[roles[0] == "system" :] == ["user", "assistant"] * (len(roles) // 2)
    assert json.dumps([message.content for message in made.messages], ensure_ascii=False).encode("utf-8")
