"""What a chat template puts around the texts of one question and its answer.

Most templates only write a fixed text before, between and after, and perhaps trim. Then a conversation need not be
rendered to be counted. That this is all a template does is found out by rendering it once with two marked strings in
place of the texts, which note everything that is done with them: they may be written, added to other text and trimmed;
tests of what they hold are noted, to be made on the real texts; at anything else the template counts as not proven.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from mosaic_ray.tokens.cuts import NotProven
from mosaic_ray.tokens.template import TEMPLATE_DATE, compile_template, prepared, variables

_MARK: Final = "MoSaIcMaRk"
_HARMLESS: Final = frozenset(
    {
        "string",
        "none",
        "defined",
        "undefined",
        "mapping",
        "boolean",
        "true",
        "false",
        "callable",
    }
)
"""Tests that do not look into a string."""

_OPAQUE: Final = (nodes.Macro, nodes.CallBlock, nodes.AssignBlock, nodes.FilterBlock)
"""What turns output into a string that no longer knows where it comes from."""

Test = Callable[[str], bool]


@dataclass(frozen=True)
class Frame:
    """``before + question + between + answer + after``.

    trimmed: whether white space around the question, and around the answer, is left out.
    tests: of the question and of the answer; where one holds, the template may do something else.
    """

    before: str
    between: str
    after: str
    trimmed: tuple[bool, bool] = (False, False)
    tests: tuple[tuple[Test, ...], tuple[Test, ...]] = ((), ())

    def holds(self, texts: Sequence[str]) -> bool:
        """Whether the frame is right for a question and an answer."""
        return not any(test(text) for text, tests in zip(texts, self.tests, strict=True) for test in tests)

    def render(self, question: str, answer: str) -> str:
        first, second = (
            text.strip() if trimmed else text for text, trimmed in zip((question, answer), self.trimmed, strict=True)
        )
        return self.before + first + self.between + second + self.after


class _MembershipTested(NodeTransformer):
    """``a in b`` as the test ``a is in(b)``: what a plain string is asked for leaves no trace in what it is asked."""

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        if all(operand.op not in ("in", "notin") for operand in node.ops):
            return node
        if len(node.ops) > 1:
            raise NotProven("its chat template compares in a chain")
        (operand,) = node.ops
        test = nodes.Test(node.expr, "in", [operand.expr], [], None, None, lineno=node.lineno)
        return nodes.Not(test, lineno=node.lineno) if operand.op == "notin" else test


def frame_of(template: str | None, special_tokens: Mapping[str, str]) -> Frame:
    """The frame of a chat template, or of plain text. Raises NotProven where the template does more than that."""
    if template is None:
        return Frame("", "\n", special_tokens.get("eos_token", ""))
    environment = prepared(_Watching, TEMPLATE_DATE)
    environment.watch()
    tree = environment.parse(template)
    if next(tree.find_all(_OPAQUE), None) is not None:
        raise NotProven("its chat template has macros or blocks that build strings")
    if _hidden_concatenation(tree):
        raise NotProven("its chat template puts strings together with ~")
    texts = (_Marked(0), _Marked(1))
    conversation = [{"role": "user", "content": texts[0]}, {"role": "assistant", "content": texts[1]}]
    try:
        shown = environment.from_string(_MembershipTested().visit(tree))
        rendered = shown.render(**variables(conversation, special_tokens))
    except Exception as error:
        raise NotProven(f"its chat template does more with texts than to show them: {error}") from error
    frame = _taken_apart(rendered, texts)
    render = compile_template(template, TEMPLATE_DATE)
    for question, answer in _PROBES:
        real = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        if frame.holds((question, answer)) and render(real, special_tokens) != frame.render(question, answer):
            raise NotProven("its chat template does not show texts as it showed the marked ones")
    return frame


_PROBES: Final = (
    ("q", "a"),
    (" \n two\nlines \t", "\n\n  indented\n  answer\n\n"),
    ('"quoted" \\ <b>&amp;</b> {{ braces }} {% tag %}', "<think>x</think> y </answer> [INST] #"),
    ("0", "None"),
)


def _taken_apart(rendered: str, texts: tuple[_Marked, _Marked]) -> Frame:
    pieces: list[str] = []
    trimmed: list[bool] = []
    rest = rendered
    for text in texts:
        shown = next((way for way in (str(text), str(text.stripped())) if way in rest), None)
        if shown is None:
            raise NotProven("its chat template does not show both texts in their order")
        before, _, rest = rest.partition(shown)
        pieces.append(before)
        trimmed.append(shown != str(text))
    if any(_MARK in piece for piece in (*pieces, rest)):
        raise NotProven("its chat template shows a text twice")
    return Frame(pieces[0], pieces[1], rest, (trimmed[0], trimmed[1]), (tuple(texts[0].tests), tuple(texts[1].tests)))


class _NotShownError(Exception):
    """What was done with a marked string."""


def _refuse(what: str) -> NoReturn:
    raise _NotShownError(what)


class _Marked(str):
    """A string that can be written, tested and trimmed, and refuses to be looked at in any other way."""

    _number: int
    _trimmed: bool
    tests: list[Test]

    def __new__(cls, number: int, trimmed: bool = False, tests: list[Test] | None = None) -> _Marked:
        made = super().__new__(cls, f"{_MARK}{number}{trimmed:d}\"'<&>\\\n{{%{number}{_MARK}")
        made._number, made._trimmed = number, trimmed
        made.tests = [] if tests is None else tests
        return made

    def stripped(self) -> _Marked:
        return _Marked(self._number, True, self.tests)

    def noted(self, test: Test, /) -> bool:
        """Note a test, which is taken to fail."""
        self.tests.append((lambda text: test(text.strip())) if self._trimmed else test)
        return False

    def __contains__(self, other: object) -> bool:
        wanted = _unmarked(other)
        return self.noted(lambda text: wanted in text)

    def __eq__(self, other: object) -> bool:
        wanted = _unmarked(other)
        return self.noted(lambda text: text == wanted)

    def __ne__(self, other: object) -> bool:
        return not self.__eq__(other)

    def __bool__(self) -> bool:
        self.noted(lambda text: not text)
        return True

    def __str__(self) -> str:
        return str.__str__(self)

    def _looked_into(self, *_: object) -> Any:
        _refuse("it looks into one")

    __hash__ = __len__ = __iter__ = __getitem__ = __mod__ = __mul__ = _looked_into
    __lt__ = __le__ = __gt__ = __ge__ = _looked_into


def _refused(name: str) -> Callable[..., NoReturn]:
    def method(*_: object, **__: object) -> NoReturn:
        _refuse(f"it calls {name}")

    method.__name__ = name
    return method


for _name in set(dir(str)) - {"strip", "startswith", "endswith"}:
    if not _name.startswith("_"):
        setattr(_Marked, _name, _refused(_name))


class _Sum(_Marked):
    """A marked string with other text added: it can be written, and no more."""

    def __new__(cls, text: str) -> _Sum:
        made = str.__new__(cls, text)
        made.tests = []
        return made

    def stripped(self) -> NoReturn:
        _refuse("it trims one with other text added")

    def noted(self, _: Test, /) -> NoReturn:
        _refuse("it tests one with other text added")


class _Watching(ImmutableSandboxedEnvironment):
    """Renders as the sandbox does, and refuses what it could not follow."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def watch(self) -> None:
        self.filters = {name: self._watched(name, function) for name, function in self.filters.items()}
        self.tests = {
            name: self._watched_test(name, cast(Callable[..., Any], function)) for name, function in self.tests.items()
        }

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if not (_marked(left) or _marked(right)):
            return _seen_through(super().call_binop(context, operator, left, right))
        if operator != "+" or not (isinstance(left, str) and isinstance(right, str)):
            _refuse(f"it calculates with one ({operator})")
        return _Sum(str.__add__(left, right))

    def call(self, context: Any, called: Any, *args: Any, **options: Any) -> Any:
        owner = getattr(called, "__self__", None)
        if isinstance(owner, str) and any(map(_marked, (owner, *args, *options.values()))):
            name = called.__name__
            if name == "strip" and isinstance(owner, _Marked) and not args:
                return owner.stripped()
            if name in ("startswith", "endswith") and isinstance(owner, _Marked) and len(args) == 1:
                wanted = _unmarked(args[0])
                return owner.noted(lambda text: bool(getattr(text, name)(wanted)))
            _refuse(f"it calls {name}")
        return _seen_through(super().call(context, called, *args, **options))

    def getitem(self, obj: Any, argument: Any) -> Any:
        if _marked(obj):
            _refuse("it takes a part of one")
        return super().getitem(obj, argument)

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **options: Any) -> Any:
            given = [value for value in (*args, *options.values()) if _marked(value)]
            if name == "trim" and len(given) == 1 and isinstance(given[0], _Marked) and not options:
                return given[0].stripped()
            if given and name not in ("string", "safe", "default", "d"):
                _refuse(f"it applies the filter {name}")
            return _seen_through(function(*args, **options))

        return _like(function, watched)

    def _watched_test(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **options: Any) -> Any:
            if name in ("iterable", "sequence") and _marked(args[0]):
                return True
            if name not in _HARMLESS and name != "in" and any(map(_marked, args)):
                _refuse(f"it applies the test {name}")
            if name == "in" and _marked(args[0]) and isinstance(args[1], str):
                _refuse("it looks for one in another text")
            return function(*args, **options)

        return _like(function, watched)


def _like(function: Callable[..., Any], wrapper: Callable[..., Any]) -> Callable[..., Any]:
    """A wrapper that Jinja passes the same context to."""
    if hasattr(function, "jinja_pass_arg"):
        wrapper.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
    return wrapper


def _marked(value: Any) -> bool:
    return isinstance(value, str) and str.__contains__(value, _MARK)


def _unmarked(value: Any) -> Any:
    if any(map(_marked, value if isinstance(value, tuple) else (value,))):
        _refuse("it compares one with another")
    return value if isinstance(value, (str, tuple)) else str(value)


def _seen_through(value: Any) -> Any:
    """A value that was made of others: if one of them is marked, it is so as a whole."""
    if _marked(value) and not isinstance(value, _Marked):
        _refuse("it makes another text of one")
    return value


def _hidden_concatenation(tree: nodes.Node) -> bool:
    """Whether anything but output is put together with ``~``, which leaves no trace."""
    shown = {id(node) for output in tree.find_all(nodes.Output) for node in output.nodes}
    return any(id(node) not in shown for node in tree.find_all(nodes.Concat))
