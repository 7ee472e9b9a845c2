"""Counting tokens exactly as the trainer will, and knowing which tokenizer that was.

**What is counted.** With a chat template: the conversation rendered by it, encoded without further special tokens, as
``transformers``' ``apply_chat_template(messages)`` does. Without one: instruction, a newline, response and the
end-of-sequence token, encoded with the special tokens that the tokenizer adds by itself (a BOS, say), as TRL's
``SFTTrainer`` does with plain prompts and completions.

**Why not from pieces.** The tokens of a text are not the sum of those of its parts: merges cross the joints. Every
count here is of the whole text.

**Control tokens.** A text that spells ``<|im_end|>`` becomes that token when a trainer encodes it. Control tokens are

- the special ones of the tokenizer;
- those added ones that its chat template writes;
- those added ones that are one marker in angle brackets without white space: with a bar inside a bracket
  (``<|fim_prefix|>``; the full-width bar of DeepSeek counts too), or named ``<unusedN>``,
  ``<start_of_...>`` or ``<end_of_...>``. They act on a model even where the tokenizer does not flag them as special.

Other added tokens, such as the HTML tags ``<table>`` and ``<i>`` of Gemma, are text. So is a marker that is no token
of the tokenizer: ``[INST]`` where it is written in plain letters is neither found nor disarmed.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import jinja2
import jinja2.ext
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from mosaic_ray.errors import TokenizerError
from mosaic_ray.fingerprint import SCHEME, fingerprint
from mosaic_ray.records import Message

TEMPLATE_DATE: Final = date(2024, 7, 26)
"""What a chat template that asks for today's date is told, so that a count does not depend on the day of the run."""


_MARKER: Final = re.compile(
    r"<[|｜][^\s<>]+>|<[^\s<>]+[|｜]>|<unused_?\d+>|<(?:start|end)_of_[^\s<>]+>",
)
"""Added tokens that act as control tokens although they may not be flagged special."""

_PROBES: Final = (
    "<think>probe thought</think>probe conclusion",
    "probe start <think>thought one</think> answer one\n\n<think>thought two</think> answer two\n\nprobe finish",
    "<answer>probe inside</answer> probe outside [THINK]probe aside[/THINK] probe tail",
    "```python\nprobe = 1\n\n\n    indented = 2\n```\nprobe after the code",
    "probe paragraph one\n\n\n\nprobe paragraph two\n- item\n\n---\n\nprobe paragraph three",
    "\n\n".join(f"{number}. probe answer number {number}\nwith a second line" for number in range(1, 201)),
)
"""What a chat template must show in full: what templates cut at, and the many answers of a mosaic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSpec:
    """All that decides a count, as plain values: workers build the tokenizer from it and need no model hub.

    name: what the user called it; not part of its identity.
    definition: the text of a ``tokenizer.json``, truncation and padding taken out.
    special_tokens: ``bos_token``, ``eos_token``, ... as the chat template sees them.
    chat_template: Jinja source, or None to count plain text.
    """

    name: str
    definition: str
    special_tokens: Mapping[str, str]
    chat_template: str | None

    @property
    def digest(self) -> str:
        """Identity by what it does: equal for equal tokenizers wherever they were loaded from."""
        definition = json.dumps(json.loads(self.definition), sort_keys=True, ensure_ascii=False)
        return fingerprint(
            {
                "definition": f"{SCHEME}:{hashlib.sha256(definition.encode('utf-8')).hexdigest()}",
                "special_tokens": dict(self.special_tokens),
                "chat_template": self.chat_template,
            }
        )


def load_tokenizer(name: str, *, chat_template: str | None = None) -> TokenizerSpec:
    """Load what ``AutoTokenizer.from_pretrained`` finds under a hub name or in a directory.

    chat_template: ``"tokenizer"`` for its own, ``"none"`` to count plain text, else the path of a Jinja file; None
        takes its own where it has one, and plain text where it has none.

    Raises TokenizerError if it is not found, has no fast form, or the template does not exist or cannot be used.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import transformers

    try:
        loaded = transformers.AutoTokenizer.from_pretrained(name)
    except Exception as error:
        raise TokenizerError(
            f"tokenizer {name!r} could not be loaded: {_first_line(error)}. Give a directory that holds a "
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
        _try_template(spec)
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
            f"--chat-template {wanted}: {_first_line(error)}. Give 'tokenizer', 'none' or the path of a Jinja file"
        ) from error


def _try_template(spec: TokenizerSpec) -> None:
    """Refuse a template that fails, loses text, or whose length in tokens changes with the calendar.

    White space around a text may go: many templates trim it.
    """
    user, assistant = probe = (Message("user", "a short question"), Message("assistant", "a short reply"))
    counter = TokenCounter(spec, max_tokens=0)

    def render(*messages: Message) -> str:
        try:
            return counter.render(messages)
        except Exception as error:  # a template can do arithmetic, so it can fail in every way that Python can
            raise TokenizerError(f"the chat template of {spec.name!r} fails: {_first_line(error)}") from error

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
    if "strftime_now" not in (spec.chat_template or ""):
        return
    days = [TEMPLATE_DATE + timedelta(days=n) for n in range(0, 3 * 365, 29)]
    counts = {counter.on(day).count(probe) for day in days}
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


class TokenCounter:
    """The budget and the exact counts against it; a :class:`mosaic_ray.methods.base.Measure`.

    One a worker: building it costs the parsing of the tokenizer's definition (0.25 s for 128,000 entries, measured).
    """

    def __init__(self, spec: TokenizerSpec, *, max_tokens: int) -> None:
        self.spec = spec
        self.max_tokens = max_tokens
        self._tokenizer = Tokenizer.from_str(spec.definition)
        self._template = None if spec.chat_template is None else _compile(spec.chat_template, TEMPLATE_DATE)
        self._end = spec.special_tokens.get("eos_token", "")
        self._control = _control_pattern(self._tokenizer, spec)
        self._normalized_control = _control_pattern(self._tokenizer, spec, normalized=True)

    def on(self, today: date) -> TokenCounter:
        """The same counter with a chat template that believes it is another day."""
        other = copy.copy(self)
        other._template = None if self.spec.chat_template is None else _compile(self.spec.chat_template, today)
        return other

    def render(self, messages: Sequence[Message]) -> str:
        """The text that is counted."""
        if self._template is None:
            return "\n".join(message.content for message in messages) + self._end
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        return self._template(conversation, self.spec.special_tokens)

    def refusal(self, messages: Sequence[Message]) -> str | None:
        """What the chat template says against a conversation, or None where it renders it.

        Some templates know no system prompt, or take one turn only.
        """
        try:
            self.render(messages)
        except Exception as error:
            return _first_line(error)
        return None

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The token ids that the trainer will see."""
        return list(self._encode(self.render(messages)).ids)

    def count(self, messages: Sequence[Message]) -> int:
        return len(self._encode(self.render(messages)))

    def count_batch(self, conversations: Sequence[Sequence[Message]]) -> list[int]:
        rendered = [self.render(messages) for messages in conversations]
        return [len(encoding) for encoding in self._encode_batch(rendered)]

    def spells_control(self, text: str) -> bool:
        if self._control is not None and self._control.search(text):
            return True
        if self._normalized_control is None:
            return False
        return self._normalized_control.search(self._normalize(text)) is not None

    def without_control(self, text: str, *, strip: bool) -> str:
        """The text with its control tokens disarmed by a space after their first character, or taken out.

        One that a space cannot disarm, for instance because it is a single character, is taken out either way.
        """
        control = self._control
        if control is None:
            return text

        def harmless(match: re.Match[str]) -> str:
            token = match.group()
            spaced = f"{token[0]} {token[1:]}"
            return "" if strip or control.search(spaced) else spaced

        while control.search(text):
            text = control.sub(harmless, text)
        return text

    @cached_property
    def _normalize(self) -> Callable[[str], str]:
        normalizer = self._tokenizer.normalizer
        return (lambda text: text) if normalizer is None else normalizer.normalize_str

    def _encode_batch(self, texts: Sequence[str]) -> list[Any]:
        return self._tokenizer.encode_batch_fast(texts, add_special_tokens=self._template is None)

    def _encode(self, text: str) -> Any:
        return self._encode_batch([text])[0]


def _control_pattern(tokenizer: Tokenizer, spec: TokenizerSpec, *, normalized: bool = False) -> re.Pattern[str] | None:
    """Longest first, so that of two tokens of which one begins the other the whole one is taken.

    normalized: of those tokens that are looked for in the normalised text, each as it is and normalised itself.
    """
    written = spec.chat_template or ""
    tokens = {
        token.content
        for token in tokenizer.get_added_tokens_decoder().values()
        if (
            token.special
            or (len(token.content.strip()) > 2 and token.content in written)
            or _MARKER.fullmatch(token.content)
        )
        and (token.normalized or not normalized)
    }
    if not normalized:
        tokens.update(token for token in spec.special_tokens.values() if len(token.strip()) > 1)
    elif tokenizer.normalizer is not None:
        tokens.update([tokenizer.normalizer.normalize_str(token) for token in tokens if token.strip()])
    patterns = [re.escape(token) for token in sorted(tokens, key=lambda t: (-len(t), t)) if token.strip()]
    return re.compile("|".join(patterns)) if patterns else None


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks what an assistant-only loss trains on; it renders as what it holds."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> Node | list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _compile(source: str, today: date) -> Callable[[list[dict[str, str]], Mapping[str, str]], str]:
    """The environment that ``transformers`` renders chat templates in, with the clock stopped."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = today.strftime
    try:
        template = environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise TokenizerError(f"the chat template is not valid Jinja: line {error.lineno}: {error.message}") from error

    def render(messages: list[dict[str, str]], special_tokens: Mapping[str, str]) -> str:
        return template.render(
            messages=messages, tools=None, documents=None, add_generation_prompt=False, **special_tokens
        )

    return render


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
