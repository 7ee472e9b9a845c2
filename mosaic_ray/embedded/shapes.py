"""The record shapes of the embedded corpus: between them, all that the readers recognise."""

from __future__ import annotations

from typing import Any

from mosaic_ray.embedded.entry import Entry

Row = dict[str, Any]


def instruction_input_output(entry: Entry) -> Row:
    return {"instruction": entry.ask, "input": entry.given, "output": entry.answer}


def instruction_context_response(entry: Entry) -> Row:
    return {"instruction": entry.ask, "context": entry.given or None, "response": entry.answer}


def prompt_completion(entry: Entry) -> Row:
    return {"prompt": entry.question, "completion": entry.answer}


def prompt_response(entry: Entry) -> Row:
    return {"prompt": entry.question, "response": entry.answer}


def question_answer(entry: Entry) -> Row:
    return {"question": entry.question, "answer": entry.answer}


def messages(entry: Entry) -> Row:
    return {"messages": [{"role": role, "content": text} for role, text in turns(entry)]}


def conversations(entry: Entry) -> Row:
    """The names of the ShareGPT export."""
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names[role], "value": text} for role, text in turns(entry)]}


def turns(entry: Entry) -> list[tuple[str, str]]:
    """Role and text of every turn, the system prompt first."""
    opening = [("system", entry.system)] if entry.system else []
    exchanges = [(entry.question, entry.answer), *entry.then]
    return opening + [turn for ask, answer in exchanges for turn in (("user", ask), ("assistant", answer))]
