"""Counts equal to what ``transformers`` makes of the same conversation, and texts that spell control tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers

from mosaic_ray.embedded import tokenizer_path
from mosaic_ray.errors import TokenizerError
from mosaic_ray.records import Message
from mosaic_ray.tokens import TokenCounter, TokenizerSpec, load_tokenizer
from mosaic_ray.tokens.template import compile_template

SHOWS_BOTH = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"

TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(
    st.sampled_from(["<|end|>", "<|", "|>", "<|eos|>", "word ", "\n", "  ", "```", "é", "中文", "🙂", "\x00"])
).map("".join)
TURNS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3)


@cache
def spec(chat_template: str | None = None) -> TokenizerSpec:
    return load_tokenizer(str(tokenizer_path()), chat_template=chat_template)


@cache
def reference() -> Any:
    """The same tokenizer, as a trainer has it."""
    return transformers.AutoTokenizer.from_pretrained(str(tokenizer_path()))


@cache
def counter(chat_template: str | None = None) -> TokenCounter:
    return TokenCounter(spec(chat_template), max_tokens=0)


def with_tokens(*tokens: str | AddedToken, normalizer: Any = None, template: str | None = None) -> TokenCounter:
    """The embedded tokenizer with further special tokens."""
    tokenizer = Tokenizer.from_str(spec().definition)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens(list(tokens))
    made = TokenizerSpec(
        name="test",
        definition=tokenizer.to_str(),
        special_tokens=spec().special_tokens,
        chat_template=template or spec().chat_template,
    )
    return TokenCounter(made, max_tokens=0)


def conversation(turns: list[tuple[str, str]], system: str | None) -> tuple[Message, ...]:
    first = () if system is None else (Message("system", system),)
    spoken = [Message(role, text) for pair in turns for role, text in zip(("user", "assistant"), pair, strict=True)]
    return (*first, *spoken)


class TestCounts:
    @given(TURNS, st.none() | TEXT)
    def test_equal_what_apply_chat_template_gives(self, turns: list[tuple[str, str]], system: str | None) -> None:
        messages = conversation(turns, system)
        expected = reference().apply_chat_template([message._asdict() for message in messages], return_dict=False)
        assert counter().encode(messages) == expected
        assert counter().count(messages) == len(expected)

    @given(TEXT, TEXT)
    def test_without_a_template_equal_what_the_tokenizer_gives(self, instruction: str, response: str) -> None:
        messages = (Message("user", instruction), Message("assistant", response))
        text = f"{instruction}\n{response}{reference().eos_token}"
        assert counter("none").render(messages) == text
        assert counter("none").encode(messages) == reference()(text)["input_ids"]

    def test_a_bos_that_the_tokenizer_adds_by_itself_counts_where_there_is_no_template(self) -> None:
        from tokenizers.processors import TemplateProcessing

        tokenizer = Tokenizer.from_str(spec().definition)
        tokenizer.post_processor = TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 0)])
        messages = (Message("user", "a"), Message("assistant", "b"))
        for template, extra in ((None, 1), (spec().chat_template, 0)):
            made = TokenizerSpec(
                name="x", definition=tokenizer.to_str(), special_tokens=spec().special_tokens, chat_template=template
            )
            before = TokenizerSpec(
                name="x", definition=spec().definition, special_tokens=spec().special_tokens, chat_template=template
            )
            counts = [TokenCounter(s, max_tokens=0).count(messages) for s in (before, made)]
            assert counts[1] - counts[0] == extra

    @given(st.lists(TURNS, max_size=5))
    def test_a_batch_counts_as_one_by_one(self, conversations: list[list[tuple[str, str]]]) -> None:
        messages = [conversation(turns, None) for turns in conversations]
        assert counter().count_batch(messages) == [counter().count(m) for m in messages]

    def test_long_texts_are_not_cut(self) -> None:
        messages = (Message("user", "word " * 5000), Message("assistant", "x"))
        assert reference().model_max_length == 2048
        assert counter().count(messages) > 5000

    def test_the_budget_is_kept_beside(self) -> None:
        assert TokenCounter(spec(), max_tokens=77).max_tokens == 77


# Tokens one in the other, one that begins another, one with a space, a single character, one of a normalised text.
TOKENS = ("[START]", "<<[START]>>", "[START]!", "[A B]", "☂", "aXa")
PIECES = st.lists(
    st.sampled_from(
        [*TOKENS, "[", "START", "]", "[ START]", "<<", "[A", " B]", "<|eos|>", "<|e", "os|>", "aX", "Xa", " "]
    )
    | st.text(max_size=3)
).map("".join)


class TestControlTokens:
    @given(PIECES, st.booleans())
    def test_none_is_left(self, text: str, strip: bool) -> None:
        measure = special()
        clean = measure.without_control(text, strip=strip)
        assert not measure.spells_control(clean)
        assert not any(token in clean for token in TOKENS)
        ids = measure.encode([Message("user", clean), Message("assistant", "")])
        tokenizer = Tokenizer.from_str(measure.spec.definition)
        added = set(tokenizer.get_added_tokens_decoder())
        empty = measure.encode([Message("user", ""), Message("assistant", "")])
        assert sum(i in added for i in ids) == sum(i in added for i in empty), "nothing in the text became one"
        if not measure.spells_control(text):
            assert clean == text

    @pytest.mark.parametrize(
        ("text", "escaped", "stripped"),
        [
            ("say [START] now", "say [ START] now", "say  now"),
            ("<|eos|><|eos|>", "< |eos|>< |eos|>", ""),
            ("<|e<|eos|>os|>", "<|e< |eos|>os|>", ""),
            ("[START]!", "[ START]!", ""),
            ("a ☂ b", "a  b", "a  b"),
            ("no token <|here", "no token <|here", "no token <|here"),
            ("[start]", "[start]", "[start]"),
        ],
    )
    def test_by_hand(self, text: str, escaped: str, stripped: str) -> None:
        assert special().without_control(text, strip=False) == escaped
        assert special().without_control(text, strip=True) == stripped

    def test_every_special_token_of_the_embedded_one(self) -> None:
        for token in ("<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"):
            assert counter().spells_control(f"a{token}b")
        assert not counter().spells_control("<|other|>")
        assert not counter().spells_control("")

    def test_added_tokens_that_the_template_writes_steer_too(self) -> None:
        token = AddedToken("<turn>", special=False, normalized=False)
        written = with_tokens(template="{% for m in messages %}<turn>{{ m['content'] }}{% endfor %}")
        tokenizer = Tokenizer.from_str(written.spec.definition)
        tokenizer.add_tokens([token])
        for template, steers in ((written.spec.chat_template, True), (spec().chat_template, False)):
            made = TokenizerSpec(
                name="x", definition=tokenizer.to_str(), special_tokens=spec().special_tokens, chat_template=template
            )
            assert TokenCounter(made, max_tokens=0).spells_control("a <turn> b") is steers

    @pytest.mark.parametrize(
        ("token", "steers"),
        [
            *((t, True) for t in ("<|fim_prefix|>", "<｜User｜>", "<｜fim▁hole｜>", "<|half>", "<half|>")),
            *((t, True) for t in ("<unused1>", "<unused_12>", "<start_of_image>", "<end_of_turn>")),
            *((t, False) for t in ("<table>", "</table>", "<i>", "<h1>", "<br>", "<unused>", "<end_of>", "<mask>")),
            *((t, False) for t in ("[multimodal]", "| a |", "a<|b|>", "<|a b|>", "<|>")),
        ],
    )
    def test_added_tokens_that_are_markers_steer_without_a_flag(self, token: str, steers: bool) -> None:
        tokenizer = Tokenizer.from_str(spec().definition)
        tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
        made = TokenizerSpec(
            name="x",
            definition=tokenizer.to_str(),
            special_tokens=spec().special_tokens,
            chat_template=spec().chat_template,
        )
        measure = TokenCounter(made, max_tokens=0)
        text = f"a {token} b"
        assert measure.spells_control(text) is steers
        assert measure.without_control(text, strip=True) == ("a  b" if steers else text)
        assert not counter().spells_control(text), "no token, no control"

    @pytest.mark.parametrize("text", ["[START]", "[start]", "a[StArT]b"])
    def test_tokens_that_are_sought_in_the_normalised_text(self, text: str) -> None:
        token = AddedToken("[START]", special=True, normalized=True)
        measure = with_tokens(token, normalizer=normalizers.Lowercase())
        assert measure.spells_control(text)
        (index,) = (i for i, t in measure._tokenizer.get_added_tokens_decoder().items() if t.content == "[START]")
        assert index in measure.encode([Message("user", text), Message("assistant", "x")])
        assert not measure.spells_control("start")


@cache
def special() -> TokenCounter:
    return with_tokens(*TOKENS)


class TestDigest:
    def test_a_copy_elsewhere_is_the_same_tokenizer(self, tmp_path: Path) -> None:
        copied = shutil.copytree(tokenizer_path(), tmp_path / "elsewhere")
        there = load_tokenizer(str(copied))
        assert there.name != spec().name
        assert there.digest == spec().digest

    def test_the_layout_of_its_json_does_not_matter(self, tmp_path: Path) -> None:
        copied = shutil.copytree(tokenizer_path(), tmp_path / "elsewhere")
        parsed = json.loads((copied / "tokenizer.json").read_text(encoding="utf-8"))
        (copied / "tokenizer.json").write_text(json.dumps(dict(reversed(parsed.items())), indent=3), encoding="utf-8")
        assert load_tokenizer(str(copied)).digest == spec().digest

    def test_another_template_special_token_or_vocabulary_is_another_tokenizer(self, tmp_path: Path) -> None:
        copied = shutil.copytree(tokenizer_path(), tmp_path / "elsewhere")
        template = copied / "chat_template.jinja"
        template.write_text(template.read_text(encoding="utf-8") + "{# changed #}", encoding="utf-8")
        config = json.loads((tokenizer_path() / "tokenizer_config.json").read_text(encoding="utf-8"))
        other_end = shutil.copytree(tokenizer_path(), tmp_path / "other_end")
        (other_end / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|end|>"}))
        digests = [
            spec().digest,
            spec("none").digest,
            load_tokenizer(str(copied)).digest,
            load_tokenizer(str(other_end)).digest,
            with_tokens("[NEW]").spec.digest,
        ]
        assert len(set(digests)) == len(digests)

    def test_truncation_and_padding_are_no_part_of_it(self, tmp_path: Path) -> None:
        copied = shutil.copytree(tokenizer_path(), tmp_path / "elsewhere")
        tokenizer = Tokenizer.from_file(str(copied / "tokenizer.json"))
        tokenizer.enable_truncation(5)
        tokenizer.enable_padding(length=9)
        tokenizer.save(str(copied / "tokenizer.json"))
        there = load_tokenizer(str(copied))
        assert there.digest == spec().digest
        assert TokenCounter(there, max_tokens=0).count([Message("user", "a " * 50), Message("assistant", "b")]) > 50


Load = Callable[[str], TokenizerSpec]


class TestTemplates:
    @pytest.fixture
    def load(self, tmp_path: Path) -> Load:
        def load(source: str) -> TokenizerSpec:
            path = tmp_path / "template.jinja"
            path.write_text(source, encoding="utf-8")
            return load_tokenizer(str(tokenizer_path()), chat_template=str(path))

        return load

    def test_own_none_and_default(self, tmp_path: Path) -> None:
        own = (tokenizer_path() / "chat_template.jinja").read_text(encoding="utf-8")
        assert spec().chat_template == spec("tokenizer").chat_template == own
        assert spec("none").chat_template is None
        bare = shutil.copytree(tokenizer_path(), tmp_path / "bare")
        (bare / "chat_template.jinja").unlink()
        assert load_tokenizer(str(bare)).digest == spec("none").digest
        words = "--chat-template tokenizer: .*bare' has no chat template of its own. Give a Jinja file, or 'none'"
        with pytest.raises(TokenizerError, match=words):
            load_tokenizer(str(bare), chat_template="tokenizer")

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(TokenizerError, match=r"--chat-template .*no\.jinja: .*No such file.* path of a Jinja file"):
            load_tokenizer(str(tokenizer_path()), chat_template=str(tmp_path / "no.jinja"))
        (tmp_path / "latin.jinja").write_bytes(b"\xe9")
        with pytest.raises(TokenizerError, match=r"latin\.jinja: 'utf-8' codec can't decode"):
            load_tokenizer(str(tokenizer_path()), chat_template=str(tmp_path / "latin.jinja"))

    def test_jinja_that_is_none(self, load: Load) -> None:
        with pytest.raises(TokenizerError, match="chat template is not valid Jinja: line 3: unexpected"):
            load("ok\n{% for m in messages %}\n{{ m['content'] }\n{% endfor %}")

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("{{ nothing() }}", "'nothing' is undefined"),
            ("{{ raise_exception('not like this') }}", "not like this"),
            ("{{ messages[9]['content'] }}", "has no element 9"),
            ("{{ messages[0]['content'] + 1 }}", "can only concatenate str"),
            ("{{ 1 / 0 }}", "division by zero"),
            ("{{ messages.append(1) }}", "unsafe"),
        ],
    )
    def test_one_that_fails(self, source: str, words: str, load: Load) -> None:
        with pytest.raises(TokenizerError, match=f"the chat template of .* fails: .*{words}"):
            load(source + SHOWS_BOTH)

    @pytest.mark.parametrize("source", ["{{ messages[0]['content'] }}", "{{ messages[-1]['content'] }}", "fixed"])
    def test_one_that_drops_a_side(self, source: str, load: Load) -> None:
        with pytest.raises(TokenizerError, match=r"does not show both sides .* Give another by --chat-template"):
            load(source)

    @pytest.mark.parametrize("role", ["user", "assistant"])
    @pytest.mark.parametrize(
        ("shown", "lost"),
        [
            ("c.split('</think>')[-1]", "'<think>probe thought</think>.*' is lost"),
            ("c.split('<think>')[0] + c.split('</think>')[-1]", "'<think>probe thought</think>.*' is lost"),
            (
                "c if c.count('</think>') < 2 else c.split('</think>')[0] + '</think>' + c.split('</think>')[-1]",
                "'.*one.*<think>thought two.*' is lost",
            ),
            ("c|striptags", "</think>.* is lost"),
            ("c|e", "<think>.* is lost"),
            ("c.split('</answer>')[-1]", "'<answer>probe inside</answer>.*' is lost"),
            ("c.split('[/THINK]')[-1]", r"\[/THINK\]' is lost"),
            ("c.removeprefix('```python')", "'```python' is lost"),
            ("c.split('\\n\\n\\n\\n')[0]", "probe paragraph two"),
            ("c.replace('\\n\\n\\n', '\\n\\n')", "white space inside is changed"),
            ("c[:2000]", "answer number.* number 200.*' is lost"),
        ],
    )
    def test_one_that_drops_part_of_a_message(self, role: str, shown: str, lost: str, load: Load) -> None:
        words = f"(?s)does not show the whole text of a message: of .* by the {role}, .*{lost}.* by --chat-template"
        with pytest.raises(TokenizerError, match=words):
            load(
                "{% for m in messages %}{% set c = m['content'] %}"
                f"{{% if m['role'] == '{role}' %}}{{{{ {shown} }}}}{{% else %}}{{{{ c }}}}{{% endif %}}\n{{% endfor %}}"
            )

    def test_one_may_trim_around_a_message(self, load: Load) -> None:
        made = TokenCounter(load("{% for m in messages %}{{ m['content']|trim }};{% endfor %}"), max_tokens=0)
        assert made.render((Message("user", "\n a \n"), Message("assistant", " b"))) == "a;b;"

    def test_a_date_of_changing_length_is_refused(self, load: Load) -> None:
        words = r"prints today's date, and its length changes with it \(from \d+ to \d+ tokens .* with a fixed date"
        with pytest.raises(TokenizerError, match=words):
            load("{{ strftime_now('%A %d %B') }}" + SHOWS_BOTH)

    def test_a_date_of_constant_length_is_accepted_and_stands_still(self, load: Load) -> None:
        dated = TokenCounter(load("{{ strftime_now('%d')|list|join(' ') }} " + SHOWS_BOTH), max_tokens=0)
        messages = (Message("user", "a"), Message("assistant", "b"))
        assert dated.render(messages).startswith("2 6 a")
        later = compile_template(str(dated.spec.chat_template), date(2031, 1, 7))
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        assert later(conversation, dated.spec.special_tokens).startswith("0 7 a")

    def test_what_the_transformers_environment_knows_is_known(self, load: Load) -> None:
        source = (
            "{% for m in messages %}\n    {% if loop.index > 9 %}\n{% break %}\n    {% endif %}\n"
            "  {% generation %}{{ m['content'] }}{% endgeneration %}{{ m | tojson }}\n"
            "{% endfor %}\n{{ eos_token }}{% if add_generation_prompt %}no{% endif %}{% if tools %}no{% endif %}\n"
        )
        messages = (Message("user", "é <b>"), Message("assistant", "b"))
        made = TokenCounter(load(source), max_tokens=0)
        listed = [message._asdict() for message in messages]
        expected = reference().apply_chat_template(listed, chat_template=source, tokenize=False)
        assert made.render(messages) == expected
        assert '"content": "é <b>"' in expected


class TestLoading:
    def test_one_that_is_not_there(self, tmp_path: Path) -> None:
        words = "tokenizer '.*none' could not be loaded: .* Give a directory that holds a tokenizer.json, or the name"
        with pytest.raises(TokenizerError, match=words):
            load_tokenizer(str(tmp_path / "none"))

    def test_an_empty_directory(self, tmp_path: Path) -> None:
        with pytest.raises(TokenizerError, match=r"could not be loaded: .* directory that holds a tokenizer\.json"):
            load_tokenizer(str(tmp_path))

    def test_one_without_a_fast_form(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
        with pytest.raises(TokenizerError, match=r"has no fast form \(ByT5Tokenizer\).*Convert it to a tokenizer.json"):
            load_tokenizer(str(tmp_path))
