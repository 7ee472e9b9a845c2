"""Tokenizers of every family that counts are promised for, small and made on the spot, and texts that are hard on them.

Two environment variables widen the tests:

- ``MOSAIC_RAY_TOKENIZERS``: directories with a ``tokenizer.json`` (and a ``tokenizer_config.json``, if there is one),
  divided by colons as in ``PATH``. All that is tested on the families is tested on these too.
- ``MOSAIC_RAY_EXAMPLES``: how many examples Hypothesis tries in each test of a property, 40 unless told.
"""

# ruff: noqa: E501, RUF001

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from mosaic_ray.embedded import corpus_path
from mosaic_ray.tokens import TokenCounter, TokenizerSpec

settings.register_profile(
    "tokens",
    settings.get_profile("project"),
    max_examples=int(os.environ.get("MOSAIC_RAY_EXAMPLES", "40")),
    suppress_health_check=[HealthCheck.too_slow],
)

WRITTEN = (
    "Der Käufer prüft die Größe, zahlt 1.250,50 € und geht.",
    "L'été dernier, j'ai vu où naît l'œuvre; c'était très beau.",
    "Не знаю, где лежит ключ: спроси у соседа, он приехал в 1998 году.",
    "Το πλοίο έφυγε νωρίς το πρωί, και ο καπετάνιος γέλασε.",
    "今天天气很好，我们去公园散步吧！你要不要一起来？",
    "私は毎朝コーヒーを飲みます。カタカナとひらがなを練習する。",
    "오늘은 비가 와서 집에서 책을 읽었어요. 내일은 맑겠지요?",
    "किताब मेज़ पर रखी है और लड़का बाहर खेल रहा है।",
    "ذهب الولد إلى السوق واشترى خبزًا وتمرًا، ثم عاد.",
    "הילדה קוראת ספר ליד החלון, והחתול ישן.",
    "นักเรียนกำลังอ่านหนังสืออยู่ในห้องสมุด",
    "İstanbul'da güneş batarken ışıklar yandı.",
    "Tôi sống ở Hà Nội và thích uống cà phê sữa đá.",
    "It's what they'd say: we'll see, I'm sure you've DON'T'd IT'S enough.",
    "def area(r):\n    if r < 0:\n        raise ValueError(\"r >= 0\")\n\treturn 3.14159 * r ** 2\n\n\n",
    "<table>\n  <tr><td class=\"a\">1</td> </tr>\n</table>\r\n{\"key\": [1, 22, 333, 4444]} // -> ok",
)  # fmt: skip
"""Lines in which what the embedded corpus lacks stands at least once."""

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN = CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
DEEPSEEK = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)
O200K = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
MARKERS = ("<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|im_end|>", "<|im_")
HTML = ("<table>", "</table>", "<td>", "<h1>", "</h1>", "<i>", "<b>", "<unused0>", "<unused1>", "<unused2>")


@cache
def lines() -> tuple[str, ...]:
    found = list(WRITTEN) * 3
    for path in sorted(corpus_path().iterdir()):
        for line in path.read_text(encoding="utf-8").splitlines()[:40]:
            found += _strings(json.loads(line))
    return tuple(found)


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _added(content: str, number: int, *, special: bool = True, normalized: bool = False) -> dict[str, Any]:
    return {
        "id": number,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": normalized,
        "special": special,
    }


def _split(expression: str) -> Any:
    return pre_tokenizers.Split(Regex(expression), "isolated")


def _byte_level(
    splits: Sequence[str],
    *,
    use_regex: bool = False,
    normalizer: Any = None,
    markers: Sequence[str] = MARKERS,
    normalized: Sequence[str] = (),
    **options: Any,
) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    steps = [*map(_split, splits), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if splits else steps[0]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2200, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(lines(), trainer)
    definition = json.loads(tokenizer.to_str())
    definition["model"].update(options)
    first = len(definition["model"]["vocab"])
    definition["added_tokens"] = [_added(content, first + n) for n, content in enumerate(markers)]
    first += len(markers)
    definition["added_tokens"] += [
        _added(content, first + n, special=False, normalized=True) for n, content in enumerate(normalized)
    ]
    return json.dumps(definition)


def _ignoring_merges() -> str:
    """As Llama 3: an entry of the vocabulary is one token, also where no merges lead to it."""
    definition = json.loads(_byte_level([CL100K], ignore_merges=True))
    vocabulary = definition["model"]["vocab"]
    shift = len(MARKERS) + len(vocabulary)
    for number, entry in enumerate(("Ġqzx", "zzqx", "\u010a\u010a\u010a\u010a", "Ġ,;", "123")):
        vocabulary.setdefault(entry, shift + number)
    return json.dumps(definition)


NASTY = (
    ("<", "/"), ("▁", "</"), (">", "▁</"), ("\n", "\n"), (".", "\n"), ("▁", "▁"), ("▁▁", "▁▁"), ("\n", "▁▁"), ("}", "\n"),
    ("▁", "("), ("e", "\n"), ("；", "▁"), ("\t", "\t"),
)  # fmt: skip
"""Merges that no pre-tokenizer would have let a trainer find."""

NASTY_ALPHABET = set("".join(map("".join, NASTY)))


def _sentencepiece(normalizer: Any, splitter: Any, added: Sequence[str], *, nasty: bool) -> str:
    """BPE over whole texts. Trained on words, or it would learn whole phrases."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=2400, initial_alphabet=["▁", "\n", "\t"], max_token_length=12, show_progress=False
    )
    tokenizer.train_from_iterator(lines(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    # Characters that are not frequent fall back to bytes.
    alphabet = {"▁", *NASTY_ALPHABET, *(c for c, _ in Counter("".join(lines())).most_common(250))}
    merges = [[a, b] for a, b in [*(NASTY if nasty else ()), *model["merges"]] if {*a, *b} <= alphabet]
    entries = list(
        dict.fromkeys(
            [*added, *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(alphabet), *(a + b for a, b in merges)]
        )
    )
    bare = Tokenizer(models.BPE())
    if normalizer is not None:
        bare.normalizer = normalizer
    if splitter is not None:
        bare.pre_tokenizer = splitter
    definition = json.loads(bare.to_str())
    definition["model"] |= {
        "vocab": {entry: number for number, entry in enumerate(entries)},
        "merges": merges,
        "unk_token": "<unk>",
        "fuse_unk": True,
        "byte_fallback": True,
    }
    definition["added_tokens"] = [_added(content, n, special=n < 4) for n, content in enumerate(added)]
    begin = entries.index("<s>") if "<s>" in entries else entries.index("<bos>")
    definition["post_processor"] = _begins_with(entries[begin], begin)
    return json.dumps(definition)


def _begins_with(token: str, number: int) -> dict[str, Any]:
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": token, "type_id": 0}}, sequence],
        "pair": [sequence, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }


def _word_piece() -> str:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=30))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=1800, limit_alphabet=250, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(lines(), trainer)
    definition = json.loads(tokenizer.to_str())
    definition["post_processor"] = _begins_with("[CLS]", 2)
    return json.dumps(definition)


MAKERS: Mapping[str, Callable[[], str]] = {
    "llama3": _ignoring_merges,
    "qwen2": lambda: _byte_level([QWEN], normalizer=normalizers.NFC()),
    "deepseek3": lambda: _byte_level(
        DEEPSEEK,
        markers=("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"),
        normalized=("<｜User｜>", "<｜Assistant｜>", "<|EOT|>", "<｜tool▁sep｜>"),
    ),
    "gpt2": lambda: _byte_level([], use_regex=True, markers=("<|endoftext|>", "<|pad|>")),
    "neox": lambda: _byte_level(
        [], use_regex=True, normalizer=normalizers.NFC(), markers=("<|endoftext|>", "<|padding|>", "  ", "   ")
    ),
    "o200k": lambda: _byte_level([O200K], markers=("<|endoftext|>", "<|endofprompt|>")),
    "gemma3": lambda: _sentencepiece(
        normalizers.Replace(" ", "▁"),
        pre_tokenizers.Split(" ", "merged_with_previous"),
        [
            "<pad>",
            "<eos>",
            "<bos>",
            "<unk>",
            *("\n" * n for n in range(2, 8)),
            "<start_of_turn>",
            "<end_of_turn>",
            *HTML,
        ]
        + ["▁" * n for n in range(2, 6)],
        nasty=True,
    ),
    "llama2": lambda: _sentencepiece(
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        None,
        ["<unk>", "<s>", "</s>"],
        nasty=False,
    ),
    "llama2-nasty": lambda: _sentencepiece(
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        None,
        ["<unk>", "<s>", "</s>"],
        nasty=True,
    ),
    "llama2-by-transformers": lambda: _sentencepiece(
        None,
        pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=False),
        ["<unk>", "<s>", "</s>"],
        nasty=True,
    ),
    "minilm": _word_piece,
}
"""Definitions of tokenizers that are shaped as the real ones are."""

PLACES = [place for place in os.environ.get("MOSAIC_RAY_TOKENIZERS", "").split(":") if place]


@dataclass(frozen=True)
class Family:
    """A tokenizer, and what a test needs to know of it."""

    name: str
    definition: str
    own_template: str | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_str(self.definition)

    @cached_property
    def added(self) -> list[str]:
        return [token.content for _, token in sorted(self.tokenizer.get_added_tokens_decoder().items())]

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        marks = [token for token in self.added if len(token.strip()) > 2]
        return {"bos_token": marks[0], "eos_token": marks[1]}

    @cached_property
    def templates(self) -> dict[str, str | None]:
        own = {} if self.own_template is None else {"its own": self.own_template}
        return {"none": None, **TEMPLATES, **own}

    def spec(self, template: str | None = None) -> TokenizerSpec:
        return TokenizerSpec(
            name=self.name,
            definition=self.definition,
            special_tokens=self.special_tokens,
            chat_template=self.templates.get(template, template),
        )

    @cache  # noqa: B019
    def counter(self, template: str) -> TokenCounter:
        return TokenCounter(self.spec(template), max_tokens=0)

    def plain(self, texts: Sequence[str]) -> list[int]:
        """What every count is held against."""
        return [len(found) for found in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


TEMPLATES: Mapping[str, str] = {
    "marked and trimmed": (
        "{{ bos_token }}{% for m in messages %}{{ eos_token + m['role'] + '\\n' + m['content'] | trim + eos_token }}"
        "{% endfor %}"
    ),
    "marked": "{% for m in messages %}{{ bos_token }}{{ m['content'] }}{{ eos_token }}\n{% endfor %}",
    "bare": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}",
    "tight": "x{{ messages[0].content }}{{ messages[1].content }}e",
    "one side trimmed": (
        "{% for m in messages %}{% if m.role == 'user' %}Q {{ m.content }}"
        "{% else %} A {{ m.content | trim + eos_token }}{% endif %}{% endfor %}"
    ),
    "tested": (
        "{% for m in messages %}{% set c = m['content'] %}{% if '</think>' in c %}"
        "{{ m.role }} thinks {{ c.split('</think>')[-1] }}{% else %}{{ bos_token + c.strip() }}{% endif %}\n{% endfor %}"
    ),
    "tested before it is trimmed": (
        "{% for m in messages %}{% if m.content.startswith(' ') %}{{ eos_token }}{% endif %}"
        "{{ bos_token + m.content | trim }}\n{% endfor %}"
    ),
}


@cache
def made(name: str) -> Family:
    if name in MAKERS:
        return Family(name, MAKERS[name]())
    place = Path(name)
    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = place / "tokenizer_config.json"
    settings_ = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
    return Family(name, tokenizer.to_str(), settings_.get("chat_template"))


@pytest.fixture(scope="session")
def make() -> Callable[[str], Family]:
    return made


@pytest.fixture(scope="session", params=[*MAKERS, *PLACES])
def family(request: pytest.FixtureRequest) -> Family:
    return made(request.param)


HARD = (
    *"\u0301\u0300\u0308\u0323\u0338\u093c\u3099\u0345\u05b0\u200d\u200c\ufe0f\u20e3",  # join the one before
    "e\u0301", "e\u0301s", "o\u0302\u0323", "か\u3099", "न\u093c", "क्षि", "a\u0328\u0301", "=\u0338", "A\u030a",
    "\r\n", "\r", "\n", "\n\n", "\n\n\n", "\t", "\t\t", " ", "  ", "   ", "     ", " \n", "\n ", "\n  ", " \t",
    *"\xa0\u3000\u2003\u2028\u0085\v\f\x1c\x1f\u200b\ufeff",
    "0", "1", "12", "345", "6789", "٣", "४२", "Ⅻ", "½", "²", "９",
    "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "👍🏽", "🙂", "1️⃣",
    "'s", "'S", "'ll", "'LL", "'lL", "'d", "'T", "'re", "'VE", "'\u017f", "'\u212a", "\u212a", "\u017f", "’s", "'", "''",
    "▁", "▁▁", "a▁b", "▁</", ">▁</", "> </", "</", "<", ">", "/", "Ġ", "Ċ", "##", "<0x0A>", "<0xE4>",
    "\0", "\x01", "\x7f", "\x1b", "\ufffd", "\ufffe", "\U0010ffff",
    "中", "文字", "中文。", "，", "；", "漢字かな", "カタカナ", "한글", "\u1112\u1161\u11ab", "\u1112", "\uac00\u11a8", "豈",
    "हिन्दी", "सड़क", "ज़", "العربية", "لَا", "\u200f", "\u200e", "שלום", "ไทย", "İ", "ı", "ß", "ŉ", "ﬁ", "ǆ", "ᾳ", "ᾈ", "Å", "\u212b",
    "é", "É", "ñ", "я", "Ж", "σς", "Ω", "\u2126", "\u037e", "ế", "Ệ",
    "word", "Word", "WORD", "wOrd", "the", "The ", " the", " a", "a", "I", "x", "Z", "don't", "I'M", "snake_case", "a-b",
    ".", ",", "...", "!", "?!", ".\n", ";\n\n", "(", ")", "{}", "[1]", "\"", "`", "```py\n", "|", "||", "#", "@x", "$1", "%", "^", "~",
    "=", "==", "+=", "//", "http://a.b/c?d=e&f", "a@b.c", "</think>", "<think>", "[INST]", "<|", "|>",
)  # fmt: skip
"""What tokens, expressions and normalizers stumble over; single marks and whole sequences of them."""

ANY = st.characters(exclude_categories=["Cs"])


@cache
def _pieces(name: str) -> Any:
    added = made(name).added
    chosen = [token for token in (added[:12] + added[-6:] if len(added) > 18 else added) if token]
    halves = [half for token in chosen for half in (token[: len(token) // 2], token[len(token) // 2 :]) if half]
    entries = [
        entry
        for entry in list(made(name).tokenizer.get_vocab(with_added_tokens=False))[
            :: 1 + made(name).tokenizer.get_vocab_size() // 150
        ]
        if not re.fullmatch(r"<0x..>", entry)
    ]
    return (
        st.sampled_from(HARD)
        | st.sampled_from([*chosen, *halves])
        | st.sampled_from(entries)
        | st.text(ANY, max_size=3)
    )


@pytest.fixture(scope="session")
def texts(family: Family) -> st.SearchStrategy[str]:
    """Any Unicode text, and such as is hard on the family."""
    return text_strategy(family.name)


@cache
def text_strategy(name: str) -> Any:
    piece = _pieces(name)
    words = st.lists(st.sampled_from(["word", "the", "x", "12", "Not"]) | piece, max_size=8).map(" ".join)
    return st.text(ANY, max_size=30) | st.lists(piece, max_size=14).map("".join) | words


@pytest.fixture(scope="session")
def parts(family: Family) -> st.SearchStrategy[tuple[str, ...]]:
    """A text in parts: put together from texts, or cut anywhere; empty parts too, but never all of it."""
    text = text_strategy(family.name)
    several = st.lists(text | st.sampled_from(["", " ", "\n", "1. ", "\n\n"]), min_size=1, max_size=6).map(tuple)

    @st.composite
    def cut(draw: Any) -> tuple[str, ...]:
        whole = draw(text)
        places = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=5)))
        return tuple(whole[a:b] for a, b in pairwise([0, *places, len(whole)]))

    return (several | cut()).filter(lambda found: bool("".join(found).strip()))
