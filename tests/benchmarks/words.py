"""Invented words of many scripts, drawn as often as real words are.

No word list is copied: the word of a rank is spelt from syllables by a hash of the rank, so that a vocabulary has no
end. Frequencies follow Zipf and Mandelbrot up to a knee and fall more steeply behind it, as counts of large real
corpora do; new rare words go on appearing for as long as one draws (Heaps' law).
"""

# ruff: noqa: RUF001

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

TABLE: Final = 200_000
"""Ranks whose words are spelt beforehand; rarer ones are spelt when they are drawn."""

_BLOCK: Final = 16_384
"""Words drawn at once."""

_OFFSET: Final = 2.7
"""Mandelbrot's."""

_MASK: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Script:
    """How a writing system spells: a word is syllables, each an onset, a nucleus and sometimes a coda.

    space: what stands between words; nothing for Chinese and Japanese.
    endings: what longer words may end in.
    """

    name: str
    onsets: Sequence[str]
    nuclei: Sequence[str]
    codas: Sequence[str]
    space: str = " "
    comma: str = ", "
    stop: str = ". "
    endings: Sequence[str] = ()
    lengths: tuple[int, int, int] = (300, 12_000, 400_000)

    def spell(self, rank: int) -> str:
        """The word of a rank: frequent words are short."""
        bits = _mix(rank)
        first, second, third = self.lengths
        count = 1 + (rank >= first and bits & 3 != 0) + (rank >= second and bits & 12 != 0) + (rank >= third)
        bits >>= 4
        parts = []
        for n in range(count):
            parts.append(_pick(self.onsets, bits) + _pick(self.nuclei, bits >> 16))
            if self.codas and bits >> 32 & 1 and (n == count - 1 or bits >> 33 & 3 == 0):
                parts.append(_pick(self.codas, bits >> 36))
            bits = _mix(bits)
        if self.endings and rank >= 4 * first and bits & 1:
            parts.append(_pick(self.endings, bits >> 2))
        return "".join(parts)


def _pick(options: Sequence[str], bits: int) -> str:
    """One of them by sixteen bits, the earlier ones more often."""
    x = bits & 0xFFFF
    return options[(x * x * len(options)) >> 32]


def _mix(x: int) -> int:
    """A 64-bit hash (the finaliser of SplitMix64)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def _units(text: str) -> list[str]:
    return text.split()


def _range(first: int, last: int, step: int = 1) -> list[str]:
    return [chr(code) for code in range(first, last + 1, step)]


def _hangul() -> list[str]:
    """Syllable blocks: lead, vowel, and no, n, ng or l as tail."""
    leads, vowels, tails = (11, 9, 0, 3, 7, 12, 18, 5, 6, 2), (0, 20, 18, 4, 8, 13, 1, 5, 6, 9), (0, 4, 21, 8)
    return [chr(0xAC00 + (lead * 21 + vowel) * 28 + tail) for tail in tails for vowel in vowels for lead in leads]


_HIRAGANA: Final = [c for c in _range(0x304B, 0x3093) if c not in "っゃゅょゎゐゑ"]
_KATAKANA: Final = [c for c in _range(0x30A2, 0x30F3) if c not in "ァィゥェォッャュョヮヰヱ"]
_HAN: Final = [chr(0x4E00 + _mix(n) % 0x4000) for n in range(2_400)]

LATIN: Final = Script(
    name="latin",
    onsets=_units("t s r n l d m c p b w f h st g tr pr v k sh ch th br gr fl cl sp qu j pl cr str bl y z sc"),
    nuclei=_units("e a i o u ea ou ai ee oo y ie oi au"),
    codas=_units("n r s t l d nd m st nt ck ng rt x ll sh ss rd lt"),
    endings=_units("s ed ing er ly es tion al ment able ness ity ous ive ful ism less"),
)
CYRILLIC: Final = Script(
    name="cyrillic",
    onsets=_units("н т с в р к л п м д г з б ч ст пр ш х ж тр ц"),
    nuclei=_units("о е а и ы у я ё ю э"),
    codas=_units("н т й р л с м в к ст ть"),
    endings=_units("ать ого ение ный ая ами ов ость ился"),
)
GREEK: Final = Script(
    name="greek",
    onsets=_units("τ σ ν κ π ρ μ λ γ δ θ χ φ στ β πρ ξ ζ"),
    nuclei=_units("α ο ι ε η υ ω ου ει ά ό ί αι έ ή ώ"),
    codas=_units("ν ρ σ λ"),
    endings=_units("ος ης ται ων ους ματα ική ση"),
)
ARABIC: Final = Script(
    name="arabic",
    onsets=_units("ل م ي ن ر ت ب ك ع د س ف ح ق ج ش ص خ ط ز"),
    nuclei=["", "ا", "و", "ي", "", "ّ", "َ"],
    codas=(),
    comma="، ",
    endings=_units("ة ات ون ين ها هم"),
    lengths=(10, 400, 8_000),
)
DEVANAGARI: Final = Script(
    name="devanagari",
    onsets=_units("क र न स त म ह प ल य व द ज ग ब च प्र श क्ष ट भ स्त थ ख"),
    nuclei=["", "ा", "े", "ि", "ी", "ो", "ु", "ं", "ू", "ै"],
    codas=["्", "ः"],
    stop="। ",
    endings=["ना", "ता", "ों", "ने", "ीय"],
)
HANGUL: Final = Script(
    name="hangul",
    onsets=_hangul(),
    nuclei=("",),
    codas=(),
    endings=_units("은 는 이 가 을 를 에 의 다 하고 했다 입니다"),
)
CHINESE: Final = Script(
    name="chinese", onsets=_HAN, nuclei=("",), codas=(), space="", comma="，", stop="。", lengths=(300, 40_000, 200_000)
)
JAPANESE: Final = Script(
    name="japanese",
    onsets=[*_HAN[:700:2], *_KATAKANA],
    nuclei=("", "", *_HIRAGANA[:20]),
    codas=_HIRAGANA,
    space="",
    comma="、",
    stop="。",
    endings=_units("の を に は が した です ます から"),
    lengths=(300, 40_000, 200_000),
)
MARKED: Final = Script(
    name="combining marks",
    onsets=_units("t n m c ng th h b đ kh l v tr ph s g"),
    nuclei=[
        "a",
        "e\u0302",
        "o\u031b",
        "i",
        "a\u0301",
        "o\u0302\u0301",
        "u\u0323",
        "a\u0306\u0300",
        "o\u0309",
        "y\u0303",
    ],
    codas=_units("n ng i c t o p m"),
    lengths=(400, 60_000, 200_000),
)
SCRIPTS: Final = {
    script.name: script for script in (LATIN, CYRILLIC, GREEK, ARABIC, DEVANAGARI, HANGUL, CHINESE, JAPANESE, MARKED)
}


class Vocabulary:
    """The words of a script with their frequencies.

    knee: the rank from which frequencies fall as rank ** -tail rather than as 1 / rank.
    """

    def __init__(self, script: Script, *, table: int = TABLE, knee: int = 1_200, tail: float = 2.3) -> None:
        self.script = script
        self.table = table
        self._tail = tail
        self.words = np.array(_distinct(script.spell, table), dtype=object)
        ranks = np.arange(table, dtype=np.float64)
        weights = 1.0 / (ranks + _OFFSET)
        weights[knee:] = weights[knee] * (ranks[knee:] / knee) ** -tail
        beyond = weights[-1] * table / (tail - 1.0)
        self._cumulative = np.cumsum(weights) / (weights.sum() + beyond)

    def draw(self, rng: np.random.Generator, n: int) -> npt.NDArray[np.object_]:
        """n words."""
        u = rng.random(n)
        ranks = np.searchsorted(self._cumulative, u, side="right")
        words = self.words[np.minimum(ranks, self.table - 1)]
        for i in np.flatnonzero(ranks >= self.table):
            share = (1.0 - u[i]) / (1.0 - self._cumulative[-1])
            words[i] = self.script.spell(int(self.table * max(share, 1e-9) ** (-1.0 / (self._tail - 1.0))))
        return words


def _distinct(spell: Callable[[int], str], n: int) -> list[str]:
    """The words of the ranks below n; one that is taken grows by a further word, as compounds do."""
    taken: dict[str, None] = {}
    for rank in range(n):
        word, more = spell(rank), rank
        while word in taken:
            more = _mix(more) >> 20
            word += spell(more % 50)
        taken[word] = None
    return list(taken)


class Voice:
    """An endless stream of words about one topic: a share of them comes from a few hundred words of its own."""

    def __init__(self, vocabulary: Vocabulary, rng: np.random.Generator, *, topic: int, share: float = 0.12) -> None:
        self.script = vocabulary.script
        self._vocabulary = vocabulary
        self._rng = rng
        self._share = share
        own = np.random.default_rng(topic).integers(60, 5_000, size=300)
        self._own = vocabulary.words[own]
        self._words: list[str] = []
        self._next = 0

    def take(self, n: int) -> list[str]:
        """The next n words (n at most 1,000), bare."""
        if self._next + n > len(self._words):
            words = self._vocabulary.draw(self._rng, _BLOCK)
            places = np.flatnonzero(self._rng.random(_BLOCK) < self._share)
            words[places] = self._own[(300 * self._rng.random(len(places)) ** 2).astype(np.int64)]
            self._words = words.tolist()
            self._next = 0
        start = self._next
        self._next += n
        return self._words[start : start + n]
