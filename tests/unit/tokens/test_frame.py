"""What templates do with texts is found out, or the template is not proven."""

# ruff: noqa: E501

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaic_ray.embedded import tokenizer_path
from mosaic_ray.tokens.cuts import NotProven
from mosaic_ray.tokens.frame import Frame, frame_of
from mosaic_ray.tokens.template import TEMPLATE_DATE, compile_template

tokens = settings.get_profile("tokens")
SPECIAL: Mapping[str, str] = {"bos_token": "<s>", "eos_token": "</s>"}
LOOP = "{% for m in messages %}%s{% endfor %}"
TEXT = st.text(st.sampled_from("ab \n\t\xa0</think>0{%}"), max_size=12) | st.sampled_from(
    ["", " ", "no", "None", "yes", "</think>", "a</think>b", "#", "[INST]", "- x", "MoSaIcMaRk", "user", "abc"]
)


@cache
def compiled(template: str) -> Callable[..., str]:
    return compile_template(template, TEMPLATE_DATE)


@cache
def followed(template: str) -> Frame:
    return frame_of(template, SPECIAL)


def rendered(template: str, question: str, answer: str) -> str | None:
    try:
        return compiled(template)(
            [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], SPECIAL
        )
    except Exception:
        return None


FOLLOWED = {
    "shown": "{{ m.content }}\n",
    "by its key": "{{ m['content'] }}{{ eos_token }}",
    "with its role": "<|{{ m.role }}|>{{ m.content }}",
    "added up": "{{ '[' + m.content + ']' }}",
    "put together": "{{ '[' ~ m.content ~ ']' }}",
    "trimmed": "{{ m.content | trim }};",
    "stripped": "{{ m.content.strip() }};",
    "trimmed and added up": "{% set c = bos_token + m.content | trim + eos_token %}{{ '>' + c }}",
    "one of them trimmed": "{% if m.role == 'user' %}{{ m.content }}{% else %}{{ m.content | trim }}{% endif %};",
    "the other trimmed": "{% if m.role == 'user' %}{{ m.content.strip() }}{% else %}{{ m.content }}{% endif %};",
    "through a variable": "{% set c = m.content %}{{ c }};",
    "through a namespace": "{% set ns = namespace(c='') %}{% set ns.c = m.content %}{{ ns.c }};",
    "through a list": "{% set all = [m.content] %}{{ all[0] }}{{ all | length }}",
    "if there is any": "{% if m.content %}{{ m.content }}{% else %}nothing{% endif %};",
    "or else another": "{{ m.content or 'nothing' }};",
    "default": "{{ m.content | default('nothing', true) }};",
    "unless it is": "{% if m.content != 'yes' %}{{ m.content }}{% endif %};",
    "unless it holds": "{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %};",
    "if it does not hold": "{% if 'think' not in m.content %}{{ m.content }}{% endif %};",
    "trimmed unless it holds": "{% set c = m.content | trim %}{% if '\n' in c %}-{% endif %}{{ c }};",
    "held before it is trimmed": "{% if '\n' in m.content %}-{% endif %}{{ m.content | trim }};",
    "begun before it is trimmed": "{% if m.content.startswith(' ') %}-{% endif %}{{ m.content | trim }};",
    "ended": "{% if m.content.endswith(('a', 'b')) %}-{% endif %}{{ m.content }};",
    "one of several": "{% if m.content in ['yes', 'no'] %}-{% endif %}{{ m.content }};",
    "a string": "{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %};",
    "a sequence": "{% if m.content is sequence %}{{ m.content }};{% endif %}",
    "not a mapping": "{% if m.content is mapping or m.content is none %}-{% endif %}{{ m.content }};",
    "from a map": "{% if loop.first %}{% for c in messages | map(attribute='content') %}{{ c }};{% endfor %}{% endif %}",
    "trimmed by a map": (
        "{% if loop.first %}{% for c in messages | map(attribute='content') | map('trim') %}{{ c }};{% endfor %}{% endif %}"
    ),
    "those that are there": "{% if loop.first %}{% for x in messages | selectattr('content') %}{{ x.content }};{% endfor %}{% endif %}",
    "role among several": "{% if m.role in ['user', 'assistant'] and 'content' in m %}{{ m.content }};{% endif %}",
}

REFUSED = {
    "upper": "{{ m.content | upper }}",
    "a method": "{{ m.content.upper() }}",
    "replaced": "{{ m.content | replace('a', 'b') }}",
    "length": "{% if m.content | length > 5 %}-{% endif %}{{ m.content }}",
    "a part": "{{ m.content[:3] }}",
    "a character": "{{ m.content }}{{ m.content[0] }}",
    "by character": "{% for c in m.content %}{{ c }}{% endfor %}",
    "compared": "{% if m.content < 'b' %}-{% endif %}{{ m.content }}",
    "in another text": "{% if m.content in 'abc' %}-{% endif %}{{ m.content }}",
    "not in another text": "{% if m.content not in 'abc' %}-{% endif %}{{ m.content }}",
    "in the role": "{% if m.content in m.role %}-{% endif %}{{ m.content }}",
    "in a chain": "{% if 'a' in m.content in 'abc' %}-{% endif %}{{ m.content }}",
    "in a mapping": "{% if m.content in {'abc': 1} %}-{% endif %}{{ m.content }}",
    "one in the other": "{% if messages[0].content in messages[1].content %}-{% endif %}{{ m.content }}",
    "one is the other": "{% if messages[0].content == messages[1].content %}-{% endif %}{{ m.content }}",
    "one begins with the other": "{% if messages[1].content.startswith(messages[0].content) %}-{% endif %}{{ m.content }}",
    "begins with one of them": "{% if m.content.startswith(('x', messages[0].content)) %}-{% endif %}{{ m.content }}",
    "changed": "{% if loop.changed(m.content) %}-{% endif %}{{ m.content }}",
    "formatted": "{% if 'b' in '%s' % m.content %}-{% endif %}{{ m.content }}",
    "formatted with others": "{% if 'b' in '%s' % (m.content,) %}-{% endif %}{{ m.content }}",
    "formatted by name": "{% if 'b' in '{x}'.format(x=m.content) %}-{% endif %}{{ m.content }}",
    "joined": "{% if 'b' in ''.join(['', m.content]) %}-{% endif %}{{ m.content }}",
    "joined by a filter": "{% if 'b' in ['', m.content] | join %}-{% endif %}{{ m.content }}",
    "put together and asked": "{% if 'b' in m.content ~ '' %}-{% endif %}{{ m.content }}",
    "added up and asked": "{% if 'b' in '' + m.content %}-{% endif %}{{ m.content }}",
    "added up and trimmed": "{{ (' ' + m.content) | trim }}",
    "put together and trimmed": "{{ (' ' ~ m.content) | trim }}",
    "several times": "{{ m.content * 2 }}",
    "twice": "{{ m.content }}{{ m.content }}",
    "as JSON": "{{ m | tojson }}",
    "as it is written": "{{ m }}",
    "escaped": "{{ m.content | e }}",
    "escaped by itself": "{% autoescape true %}{{ m.content }}{% endautoescape %}",
    "in a block": "{% set c %}{{ m.content }}{% endset %}{{ c | trim }}",
    "in a macro": "{% macro show(c) %}{{ c }}{% endmacro %}{{ show(m.content) }}",
    "in a filtered block": "{% filter upper %}{{ m.content }}{% endfilter %}",
    "trimmed of some": "{{ m.content.strip('\n') }}",
    "trimmed on one side": "{{ m.content.lstrip() }}",
    "without doubles": "{% if loop.first %}{% for c in messages | map(attribute='content') | unique %}{{ c }};{% endfor %}{% endif %}",
    "sorted": "{% if loop.first %}{% for x in messages | sort(attribute='content') %}{{ x.content }};{% endfor %}{% endif %}",
    "chosen": "{% if loop.first %}{% for x in messages | rejectattr('content', 'equalto', 'a') %}{{ x.content }};{% endfor %}{% endif %}",
    "a number": "{{ m.content | int }}{{ m.content }}",
    "a key": "{% set d = {m.content: 1} %}{{ m.content }}",
    "the last first": "{{ messages[1 - loop.index0].content }}",
    "of one only": "{{ messages[0].content if loop.first else 'x' }}",
    "that fails": "{{ nothing() }}",
    "of a block of its own": "{% if loop.first %}{% block b %}{{ messages[0].content }}{% endblock %}{{ self.b() | length }}{% endif %}",
}


class TestFrames:
    @pytest.mark.parametrize("name", FOLLOWED)
    @given(question=TEXT, answer=TEXT)
    @tokens
    def test_where_it_holds_it_renders_as_the_template_does(self, name: str, question: str, answer: str) -> None:
        template = LOOP.replace("%s", FOLLOWED[name])
        frame = followed(template)
        if frame.holds((question, answer)):
            assert frame.render(question, answer) == rendered(template, question, answer)

    @pytest.mark.parametrize("name", FOLLOWED)
    def test_it_holds_for_plain_texts(self, name: str) -> None:
        assert frame_of(LOOP.replace("%s", FOLLOWED[name]), SPECIAL).holds(("A question?", "An answer."))

    @pytest.mark.parametrize("name", REFUSED)
    def test_templates_that_look_closer_are_not_proven(self, name: str) -> None:
        with pytest.raises(NotProven, match="its chat template "):
            frame_of(LOOP.replace("%s", REFUSED[name]), SPECIAL)

    @given(
        question=TEXT,
        answer=TEXT,
        shown=st.lists(st.sampled_from([*FOLLOWED.values(), *REFUSED.values()]), min_size=2, max_size=2),
    )
    @tokens
    def test_two_ways_in_one_template(self, question: str, answer: str, shown: list[str]) -> None:
        template = LOOP.replace("%s", f"{{% if m.role == 'user' %}}{shown[0]}{{% else %}}{shown[1]}{{% endif %}}")
        try:
            frame = frame_of(template, SPECIAL)
        except NotProven:
            return
        if frame.holds((question, answer)):
            assert frame.render(question, answer) == rendered(template, question, answer)

    def test_without_a_template(self) -> None:
        assert frame_of(None, SPECIAL) == Frame("", "\n", "</s>")
        assert frame_of(None, {}).render("q", "a") == "q\na"

    def test_of_the_embedded_template(self) -> None:
        template = (tokenizer_path() / "chat_template.jinja").read_text(encoding="utf-8")
        special = json.loads((tokenizer_path() / "tokenizer_config.json").read_text(encoding="utf-8"))
        frame = frame_of(template, {"bos_token": special["bos_token"], "eos_token": special["eos_token"]})
        assert frame.holds(("q", "a"))
        assert "q" in frame.render("q", "a")

    def test_the_reason_is_given_in_words(self) -> None:
        with pytest.raises(NotProven, match=r"does more with texts than to show them: it calls upper"):
            frame_of(LOOP.replace("%s", "{{ m.content.upper() }}"), SPECIAL)
        with pytest.raises(NotProven, match="shows a text twice"):
            frame_of(LOOP.replace("%s", "{{ m.content }}{{ m.content }}"), SPECIAL)
