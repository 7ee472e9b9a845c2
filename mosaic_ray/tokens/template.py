"""Rendering conversations by a chat template, as ``transformers`` does, with the clock stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, Final, TypeVar

import jinja2
import jinja2.ext
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mosaic_ray.errors import TokenizerError

TEMPLATE_DATE: Final = date(2024, 7, 26)
"""What a chat template that asks for today's date is told, so that a count does not depend on the day of the run."""


Env = TypeVar("Env", bound=ImmutableSandboxedEnvironment)


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks what an assistant-only loss trains on; it renders as what it holds."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> Node | list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def compile_template(source: str, today: date) -> Callable[[list[dict[str, str]], Mapping[str, str]], str]:
    """A function that renders messages as ``transformers`` would on that day. Raises TokenizerError."""
    environment = prepared(ImmutableSandboxedEnvironment, today)
    try:
        template = environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise TokenizerError(f"the chat template is not valid Jinja: line {error.lineno}: {error.message}") from error

    def render(messages: list[dict[str, str]], special_tokens: Mapping[str, str]) -> str:
        return template.render(**variables(messages, special_tokens))

    return render


def prepared(kind: type[Env], today: date) -> Env:
    """The environment that ``transformers`` renders chat templates in, with the clock stopped."""
    environment = kind(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"])

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = today.strftime
    return environment


def variables(messages: list[dict[str, str]], special_tokens: Mapping[str, str]) -> dict[str, Any]:
    """What a chat template is given."""
    return {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": False, **special_tokens}


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
