"""Loading a tokenizer by name, and refusing a chat template that no count could hold for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

from mosaic_ray.errors import TokenizerError
from mosaic_ray.records import Message
from mosaic_ray.tokens.spec import TokenizerSpec
from mosaic_ray.tokens.template import TEMPLATE_DATE, compile_template, first_line

_PROBES: Final = (
    "<think>probe thought</think>probe conclusion",
    "probe start <think>thought one</think> answer one\n\n<think>thought two</think> answer two\n\nprobe finish",
    "<answer>probe inside</answer> probe outside [THINK]probe aside[/THINK] probe tail",
    "```python\nprobe = 1\n\n\n    indented = 2\n```\nprobe after the code",
    "probe paragraph one\n\n\n\nprobe paragraph two\n- item\n\n---\n\nprobe paragraph three",
    "\n\n".join(f"{number}. probe answer number {number}\nwith a second line" for number in range(1, 201)),
)
"""What a chat template must show in full: what templates cut at, and the many answers of a mosaic."""


def load_tokenizer(name: str, *, chat_template: str | None = None) -> TokenizerSpec:
    """Load what ``AutoTokenizer.from_pretrained`` finds under a hub name or in a directory.

    chat_template: ``"tokenizer"`` for its own, ``"none"`` to count plain text, else the path of a Jinja file; None
        takes its own where it has one, and plain text where it has none.

    Raises TokenizerError if it is not found, has no fast form, or the template does not exist or cannot be used.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(name)
    except Exception as error:
        raise TokenizerError(
            f"tokenizer {name!r} could not be loaded: {first_line(error)}. Give a directory that holds a "
            "tokenizer.json, or the name of a model on the Hugging Face Hub that this machine can reach"
        ) from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise TokenizerError(
            f"tokenizer {name!r} has no fast form ({type(loaded).__name__}), and only those give exact counts at "
            "speed. Convert it to a tokenizer.json first"
        )
    exact = Tokenizer.from_str(backend.to_str())
    exact.no_truncation()
    exact.no_padding()
    special = {key: str(value) for key, value in loaded.special_tokens_map.items() if isinstance(value, str)}
    spec = TokenizerSpec(
        name=name,
        definition=exact.to_str(),
        special_tokens=special,
        chat_template=_choose_template(name, getattr(loaded, "chat_template", None), chat_template),
    )
    if spec.chat_template is not None:
        _try_template(spec, spec.chat_template, exact)
    return spec


def _choose_template(name: str, own: object, wanted: str | None) -> str | None:
    if isinstance(own, Mapping):
        own = own.get("default")
    if wanted == "none" or (wanted is None and own is None):
        return None
    if wanted in (None, "tokenizer"):
        if not isinstance(own, str):
            raise TokenizerError(
                f"--chat-template tokenizer: tokenizer {name!r} has no chat template of its own. Give a Jinja file, "
                "or 'none' to count plain text"
            )
        return own
    try:
        return Path(str(wanted)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(
            f"--chat-template {wanted}: {first_line(error)}. Give 'tokenizer', 'none' or the path of a Jinja file"
        ) from error


class _Today(date):
    """A day that can be set: a template is compiled once for all of them."""

    now: date = TEMPLATE_DATE

    def strftime(self, format: str) -> str:
        return self.now.strftime(format)


def _try_template(spec: TokenizerSpec, source: str, tokenizer: Tokenizer) -> None:
    """Refuse a template that fails, loses text, or whose length in tokens changes with the calendar.

    White space around a text may go: many templates trim it.
    """
    user, assistant = probe = (Message("user", "a short question"), Message("assistant", "a short reply"))
    today = _Today(1, 1, 1)
    template = compile_template(source, today)

    def render(*messages: Message) -> str:
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return template(conversation, spec.special_tokens)
        except Exception as error:  # a template can do arithmetic, so it can fail in every way that Python can
            raise TokenizerError(f"the chat template of {spec.name!r} fails: {first_line(error)}") from error

    rendered = render(*probe)
    if any(message.content not in rendered for message in probe):
        raise TokenizerError(
            f"the chat template of {spec.name!r} does not show both sides of a conversation of one user and one "
            "assistant message. Give another by --chat-template"
        )
    for text in _PROBES:
        for role, shown in (
            ("assistant", render(user, Message("assistant", text))),
            ("user", render(Message("user", text), assistant)),
        ):
            if text not in shown:
                raise TokenizerError(
                    f"the chat template of {spec.name!r} does not show the whole text of a message: of "
                    f"{_short(text)} by the {role}, {_lost(text, shown)}. Answers would vanish from the samples "
                    "unseen. Give a copy of the template that shows the whole text of every message by --chat-template"
                )
    if "strftime_now" not in source:
        return
    texts = set()
    for days in range(0, 3 * 365, 29):
        today.now = TEMPLATE_DATE + timedelta(days=days)
        texts.add(render(*probe))
    counts = {len(encoding) for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)}
    if len(counts) > 1:
        raise TokenizerError(
            f"the chat template of {spec.name!r} prints today's date, and its length changes with it (from "
            f"{min(counts)} to {max(counts)} tokens for one conversation), so no count could hold on another day. "
            "Give a copy with a fixed date by --chat-template"
        )


def _lost(text: str, shown: str) -> str:
    """What a rendering lacks of a text: the whole words between the longest start and end of it that are shown."""
    start = next(n for n in range(len(text), -1, -1) if text[:n] in shown)
    end = next(n for n in range(start, len(text) + 1) if text[n:] in shown)
    if not text[start:end].strip():
        return "the white space inside is changed"
    while start > 0 and not text[start - 1].isspace():
        start -= 1
    while end < len(text) and not text[end].isspace():
        end += 1
    return f"{_short(text[start:end].strip())} is lost or changed"


def _short(text: str) -> str:
    return repr(text if len(text) <= 120 else f"{text[:80]} ... {text[-30:]}")
