"""From a row as it was read to a record in normal form. Pure: a row and a shape in, a Record or a Reject out.

Five shapes are known by their column names, in this order: ``messages`` (turns of role and content), ``conversations``
(turns of from and value, as ShareGPT has them), ``instruction`` with ``output`` or ``response``, ``prompt`` with
``completion`` or ``response``, ``question`` with ``answer``. Any other names are mapped by the user.

Some columns are optional, and looked up in every row, for the rows of a JSON file need not all have them: a system
prompt beside any of the five; an input, and a ``history`` of earlier questions and answers, beside the last three.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal

from mosaic_ray.errors import InputError, SettingsError
from mosaic_ray.records import EXCERPT_CHARACTERS, Message, Record, Reject, Source
from mosaic_ray.text import seen_on_one_line

Kind = Literal["instruction", "prompt", "question", "messages", "conversations", "columns"]
MultiTurn = Literal["pass", "first", "reject"]

_PAIRS: Final[Mapping[Kind, tuple[str, tuple[str, ...]]]] = {
    "instruction": ("instruction", ("output", "response")),
    "prompt": ("prompt", ("completion", "response")),
    "question": ("question", ("answer",)),
}
"""Kind -> the column of the instruction, and the columns that may hold the response, the first that is there wins."""

_OPTIONAL: Final[Mapping[str, tuple[str, ...]]] = {"input": ("input", "context"), "system": ("system", "system_prompt")}
"""Role -> the columns that may hold it; in each row the first that is there and not blank wins."""

_HISTORY: Final = "history"
_ROLES: Final = ("instruction", "response", "input", "system", "messages")
_SPEAKERS: Final[Mapping[str, str]] = {
    "system": "system", "human": "user", "user": "user",
    "gpt": "assistant", "assistant": "assistant", "bing": "assistant", "chatgpt": "assistant",
}  # fmt: skip
_SHOWN_NAMES, _SHOWN_NAME = 30, 60
_KNOWN: Final = (
    "messages; conversations; instruction (+input) with output or response; prompt with completion or response; "
    "question with answer"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How the rows of a file hold a record.

    kind: the convention that the columns follow; ``columns`` is one that the user mapped.
    columns: role -> column: ``instruction`` and ``response``, or ``messages``; and the optional columns that the
        file was seen to have, which are all that is read of Parquet: ``input``, ``system``, ``history``, and by its
        own name a second column for one of these (``context`` beside ``input``). Rows of a known convention may hold
        an optional column that is not listed.
    """

    kind: Kind
    columns: Mapping[str, str]


def check_mapping(mapping: Mapping[str, str]) -> None:
    """Raise SettingsError unless the mapping gives ``messages``, or both ``instruction`` and ``response``."""
    for role in mapping:
        if role not in _ROLES:
            raise SettingsError(f"--columns: there is no role {role!r}; the roles are {', '.join(_ROLES)}.")
    whole = "messages" in mapping
    if whole and len(mapping) > 1:
        raise SettingsError("--columns: messages holds the whole conversation; give it alone.")
    if not whole and not {"instruction", "response"} <= mapping.keys():
        raise SettingsError(
            "--columns: give instruction=COLUMN,response=COLUMN (and input=, system=) or messages=COLUMN."
        )


def mapping_applies(mapping: Mapping[str, str], columns: Collection[str]) -> bool:
    """Whether a file with these columns has those that the mapping cannot do without.

    ``mapping_applies(mapping, file.shape.columns.values())`` says of an inventoried file whether it was used.
    """
    return all(mapping[role] in columns for role in ("instruction", "response", "messages") if role in mapping)


def recognise(
    columns: Collection[str],
    sample: Sequence[Mapping[str, Any]],
    *,
    mapping: Mapping[str, str] | None = None,
    file: str,
) -> Shape:
    """The shape of a file from its column names and, for conversations, from its first rows.

    columns: all names that occur in the sample, or those of the Parquet schema.
    mapping: role -> column, as the user gave it; it goes before the known shapes in the files that have its columns.
    file: how to call the file in an error.

    Raises InputError when no shape fits, or when the mapping applies and names an optional column that is not there.
    """
    if mapping and mapping_applies(mapping, columns):
        if "messages" in mapping:
            column = mapping["messages"]
            kind = _turns(column, sample) or "messages"
            return Shape(kind=kind, columns={"messages": column, **_optional(columns, "system")})
        for role, name in mapping.items():
            if name not in columns:
                raise InputError(
                    f"{file}: there is no column {name!r} in it for --columns {role}={name} (it has "
                    f"{_listed(columns)}); correct the name, or leave {role}= out. If the column only "
                    "begins further down in a JSON file, write it as null into the first row."
                )
        return Shape(kind="columns", columns=dict(mapping))
    for column in ("messages", "conversations"):
        turns = _turns(column, sample) if column in columns else None
        if turns:
            return Shape(kind=turns, columns={"messages": column, **_optional(columns, "system")})
    for kind, (instruction, responses) in _PAIRS.items():
        response = next((name for name in responses if name in columns), None)
        if instruction in columns and response:
            chosen = {"instruction": instruction, "response": response}
            chosen.update(_optional(columns, *_OPTIONAL))
            if _HISTORY in columns:
                chosen[_HISTORY] = _HISTORY
            return Shape(kind=kind, columns=chosen)
    raise InputError(
        f"{file}: its columns ({_listed(columns) or 'none'}) fit no known shape ({_KNOWN}); name them with "
        "--columns instruction=COLUMN,response=COLUMN or --columns messages=COLUMN, or leave the file out."
    )


def to_record(row: Mapping[str, Any], shape: Shape, source: Source, *, multi_turn: MultiTurn) -> Record | Reject:
    """The record that a row holds, or why it holds none.

    multi_turn: what to do with a conversation that is more than one question and its answer (several turns, or a
        system prompt): ``pass`` it whole and unchanged, keep its ``first`` question and answer without the system
        prompt, or ``reject`` it.
    """
    try:
        turns = _conversation(row, shape) if "messages" in shape.columns else _pair(row, shape)
        messages, trimmed = _policy(turns, multi_turn)
        return Record(source=source, messages=messages, trimmed=trimmed)
    except _RefusedError as refused:
        reason, detail = refused.args
        return Reject(source=source, reason=reason, detail=detail, excerpt=excerpt(row))


def excerpt(row: object) -> str:
    """The first characters of a row: of its JSON, or of the bytes of a line that is none. Always valid UTF-8."""
    if isinstance(row, bytes):
        return row[: 4 * EXCERPT_CHARACTERS].strip().decode("utf-8", "backslashreplace")[:EXCERPT_CHARACTERS]
    try:
        text = json.dumps(row, ensure_ascii=False, default=str)[:EXCERPT_CHARACTERS]
    except RecursionError:  # nested as deep as a parser takes it, which is deeper than a writer does
        return ""
    return text.encode("utf-8", "backslashreplace").decode()[:EXCERPT_CHARACTERS]


def _optional(columns: Collection[str], *roles: str) -> dict[str, str]:
    """Of each role the first column that is there under the role, any further one under its own name."""
    chosen: dict[str, str] = {}
    for role in roles:
        for name in _OPTIONAL[role]:
            if name in columns:
                chosen[name if role in chosen else role] = name
    return chosen


class _RefusedError(Exception):
    """Reason and detail of a reject."""


def _turns(column: str, sample: Iterable[Mapping[str, Any]]) -> Kind | None:
    """How the turns of a column are written; None when the sample has values there and none is a list.

    Without any turn to look at, the column's own name decides.
    """
    seen = False
    for row in sample:
        value = row.get(column)
        if isinstance(value, list):
            for turn in value:
                if isinstance(turn, Mapping):
                    return "conversations" if "from" in turn else "messages"
        seen = seen or not (value is None or isinstance(value, list))
    if seen:
        return None
    return "conversations" if column == "conversations" else "messages"


def _conversation(row: Mapping[str, Any], shape: Shape) -> list[Message]:
    column = shape.columns["messages"]
    if column not in row:
        raise _RefusedError("missing_column", f"there is no {column!r}; the row has {_names(row)}")
    turns = row[column]
    if not isinstance(turns, list):
        raise _RefusedError("bad_messages", f"{column!r} is {_kind_of(turns)}, not a list of turns")
    role_key, text_key = ("from", "value") if shape.kind == "conversations" else ("role", "content")
    messages = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, Mapping):
            raise _RefusedError("bad_messages", f"turn {number} is {_kind_of(turn)}, not an object")
        speaker = turn.get(role_key)
        role = _SPEAKERS.get(speaker) if isinstance(speaker, str) else None
        if role is None or (shape.kind != "conversations" and role != speaker):
            raise _RefusedError("bad_messages", f"turn {number} has the {role_key} {speaker!r}"[:EXCERPT_CHARACTERS])
        messages.append(Message(role, _content(turn.get(text_key), number, text_key)))
    led = bool(messages) and messages[0].role == "system"
    spoken = messages[1:] if led else messages
    for number, message in enumerate(spoken):
        expected = ("user", "assistant")[number % 2]
        if message.role != expected:
            place = number + 1 + len(messages) - len(spoken)
            raise _RefusedError("bad_messages", f"turn {place} is by {message.role}, where {expected} should speak")
    if not spoken:
        raise _RefusedError("bad_messages", "there is no question and answer in it")
    if len(spoken) % 2:
        raise _RefusedError("bad_messages", f"turn {len(messages)}, the last, is by user and has no answer")
    if led and messages[0].content.strip():
        return messages
    system = _text(row, *_OPTIONAL["system"])
    return [Message("system", system), *spoken] if system else spoken


def _content(value: object, number: int, key: str) -> str:
    """The text of a turn; a list of text parts is joined."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise _RefusedError("bad_messages", f"turn {number} has {_kind_of(value)} as its {key}, not a string")
    texts = []
    for part in value:
        if not (isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise _RefusedError("bad_messages", f"turn {number} has a part that is not text")
        texts.append(part["text"])
    return "".join(texts)


def _pair(row: Mapping[str, Any], shape: Shape) -> list[Message]:
    columns = shape.columns
    for role in ("instruction", "response"):
        if columns[role] not in row:
            raise _RefusedError("missing_column", f"there is no {columns[role]!r}; the row has {_names(row)}")
        if not isinstance(row[columns[role]], str):
            raise _RefusedError("not_a_string", f"{columns[role]!r} is {_kind_of(row[columns[role]])}")
    if shape.kind == "columns":
        given, system = (_text(row, columns[role]) if role in columns else "" for role in ("input", "system"))
        history: list[Message] = []
    else:
        given, system = _text(row, *_OPTIONAL["input"]), _text(row, *_OPTIONAL["system"])
        history = _earlier(row.get(_HISTORY))
    parts = (row[columns["instruction"]].strip(), _trim(given))
    asked = Message("user", "\n".join(part for part in parts if part))
    turns = [*history, asked, Message("assistant", row[columns["response"]])]
    return [Message("system", system), *turns] if system else turns


def _text(row: Mapping[str, Any], *columns: str) -> str:
    """Of the first of the optional columns that is neither null nor blank; empty where there is none."""
    for column in columns:
        value = row.get(column)
        if value is None:
            continue
        if not isinstance(value, str):
            raise _RefusedError("not_a_string", f"{column!r} is {_kind_of(value)}")
        if value.strip():
            return value
    return ""


def _earlier(history: object) -> list[Message]:
    """The turns of a history: a list of pairs of a question and its answer; null and a blank string are none."""
    if history is None or (isinstance(history, str) and not history.strip()):
        return []
    if not isinstance(history, list):
        raise _RefusedError("bad_messages", f"{_HISTORY!r} is {_kind_of(history)}, not a list of pairs")
    turns = []
    for number, pair in enumerate(history, 1):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise _RefusedError("bad_messages", f"item {number} of {_HISTORY!r} is no pair of a question and an answer")
        turns += [Message("user", pair[0]), Message("assistant", pair[1])]
    return turns


def _policy(turns: Sequence[Message], multi_turn: MultiTurn) -> tuple[tuple[Message, ...], bool]:
    """The messages of the record, and whether the policy left any out; a blank system prompt is none."""
    if turns[0].role == "system" and not turns[0].content.strip():
        turns = turns[1:]
    trimmed = len(turns) > 2 and multi_turn == "first"
    if len(turns) > 2:
        if multi_turn == "reject":
            system = "a system prompt and " if turns[0].role == "system" else ""
            asked = sum(turn.role == "user" for turn in turns)
            raise _RefusedError("multi_turn", f"it has {system}{asked} question{'s' if asked > 1 else ''}")
        if trimmed:
            turns = turns[1:3] if turns[0].role == "system" else turns[:2]
    for turn in turns:
        if not turn.content.isascii():
            try:
                turn.content.encode("utf-8")
            except UnicodeEncodeError as error:
                raise _RefusedError("lone_surrogate", f"the {turn.role}'s text, character {error.start}") from None
        if turn.role != "system" and not turn.content.strip():
            raise _RefusedError("empty_instruction" if turn.role == "user" else "empty_response",
                                f"the {turn.role}'s text is {turn.content[:20]!r}")  # fmt: skip
    if len(turns) > 2:
        return tuple(turns), False
    return (Message("user", turns[0].content.strip()), Message("assistant", _trim(turns[1].content))), trimmed


def _trim(text: str) -> str:
    """Without blank lines in front and white space at the end; the first line keeps its indentation, as code needs."""
    if text[:1].isspace():
        text = text[text.rfind("\n", 0, len(text) - len(text.lstrip())) + 1 :]
    return text.rstrip()


def _listed(columns: Collection[str]) -> str:
    """The names of columns for a message: the first of them, each cut, for there may be a hundred thousand."""
    names = [seen_on_one_line(name[:_SHOWN_NAME]) for name in sorted(columns)[:_SHOWN_NAMES]]
    more = len(columns) - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more else "")


def _names(row: Mapping[str, Any]) -> str:
    return (", ".join(map(repr, islice(row, _SHOWN_NAMES))) or "no columns")[:EXCERPT_CHARACTERS]


def _kind_of(value: object) -> str:
    if value is None:
        return "null"
    names: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "a boolean"), ((int, float), "a number"), (str, "a string"), (list, "a list"), (Mapping, "an object")
    )  # fmt: skip
    return next((name for kind, name in names if isinstance(value, kind)), f"of type {type(value).__name__}")
