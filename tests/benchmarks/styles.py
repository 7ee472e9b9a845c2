"""Kinds of instruction records: each file of the corpus holds one kind, as a corpus sorted by task does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, NamedTuple

from words import Voice


class Texts(NamedTuple):
    """The texts of one record in the alpaca shape; ``input`` is often empty."""

    instruction: str
    input: str
    output: str


class Writer:
    """Writes prose, names and numbers with the words of one voice. ``short`` and ``long`` scale with ``length``."""

    def __init__(self, voice: Voice, draw: Random, *, length: float) -> None:
        self.voice = voice
        self.draw = draw
        self.length = length
        self._possessive = "'s" if voice.script.name == "latin" else ""
        self.usual = voice.take(60)
        self.asks = [self._ask() for _ in range(12)]

    def short(self) -> int:
        """Words of an instruction: log-normal, median 9."""
        return max(3, min(400, int(9 * self.length * self.draw.lognormvariate(0.0, 0.7))))

    def long(self) -> int:
        """Words of a response: log-normal, median 27."""
        return max(1, min(900, int(27 * self.length * self.draw.lognormvariate(0.0, 0.95))))

    def sentence(self, n: int) -> str:
        """n words with commas, names, numbers, possessives, quotes and brackets as often as prose has them."""
        words, random = self.voice.take(n), self.draw.random
        script = self.voice.script
        words[0] = words[0].capitalize()
        for _ in range(n // 4):
            place, kind = int(random() * (n - 1)), random()
            if kind < 0.40:
                words[place] += script.comma.rstrip()
            elif kind < 0.66:
                words[place] = words[place].capitalize()
            elif kind < 0.78:
                words[place] = self.number()
            elif kind < 0.88:
                words[place] += self._possessive
            elif kind < 0.92:
                words[place] = f'"{words[place]}"'
            elif kind < 0.95:
                words[place] = f"({words[place]})"
            elif kind < 0.98:
                words[place] += "-" + words[0].lower()
            else:
                words[place] += " \u2013 " + words[-1]
        end = random()
        stop = script.stop if end < 0.86 else "? " if end < 0.93 else "! " if end < 0.96 else ": "
        return script.space.join(words) + stop

    def prose(self, words: int) -> str:
        """Sentences of about 4 to 28 words; a paragraph ends now and then."""
        parts = []
        while words > 0:
            n = min(words, 4 + int(27 * self.draw.random() ** 1.5))
            words -= n
            text = self.sentence(n)
            parts.append(text.rstrip() + "\n\n" if words and self.draw.random() < 0.08 else text)
        return "".join(parts).rstrip()

    def number(self) -> str:
        """Small numbers most often; years, decimals, thousands, money, times and shares among them."""
        kind, value = self.draw.random(), int(10 ** (4 * self.draw.random() ** 1.6))
        if kind < 0.55:
            return str(value)
        if kind < 0.70:
            return str(1900 + value % 130)
        if kind < 0.80:
            return f"{value}.{value * 7 % 100}"
        if kind < 0.87:
            return f"{value * 137:,}"
        return f"${value}" if kind < 0.92 else f"{value % 100}%" if kind < 0.97 else f"{value % 24}:{value % 60:02d}"

    def name(self) -> str:
        return " ".join(map(str.capitalize, self.voice.take(2)))

    def phrase(self, n: int) -> str:
        return self.voice.script.space.join(self.voice.take(n))

    def ask(self) -> str:
        """What a task asks is worded in a dozen ways, over and over, with something new in it."""
        return self.draw.choice(self.asks).format(self.phrase(1 + self.draw.randrange(3)))

    def _ask(self) -> str:
        first, second = self.sentence(5).rstrip().rstrip(".:?!。।"), self.phrase(4)
        return f"{first} {{}} {second}{self.draw.choice(('.', ':', '?', ''))}".replace("{}{}", "{}")


def question(w: Writer) -> Texts:
    return Texts(w.ask() if w.draw.random() < 0.4 else w.prose(w.short()), "", w.prose(w.long()))


def about_text(w: Writer) -> Texts:
    """A text and something shorter about it."""
    return Texts(w.ask(), w.prose(int(w.long() * 1.1)), w.prose(max(3, w.long() // 3)))


def labels(w: Writer) -> Texts:
    """A text and one of five labels."""
    return Texts(w.ask(), w.prose(w.long()), w.draw.choice(w.asks).split()[0])


def rewritten(w: Writer) -> Texts:
    """The response is the input with every seventh word replaced."""
    text = w.prose(max(4, int(w.long() * 0.9)))
    words = text.split(" ")
    words[3::7] = w.voice.take(len(words[3::7]))
    return Texts(w.ask(), text, " ".join(words))


def listing(w: Writer) -> Texts:
    """Steps, bullets and headings in Markdown."""
    mark = w.draw.choice(("{n}. ", "- ", "* ", "{n}) ", "- **{name}**: ", "### {name}\n"))
    items = [
        mark.format(n=n, name=w.name()) + w.sentence(3 + w.draw.randrange(14)).rstrip()
        for n in range(1, 2 + int(w.draw.expovariate(0.25)))
    ]
    gap = "\n\n" if mark.startswith("#") else "\n"
    return Texts(w.prose(w.short()), "", w.sentence(6).rstrip() + "\n\n" + gap.join(items))


def extraction(w: Writer) -> Texts:
    """JSON, tables and CSV out of a text."""
    text = w.prose(w.long())
    fields = w.voice.take(2 + w.draw.randrange(4))
    rows = [
        [w.number() if w.draw.random() < 0.4 else w.phrase(2) for _ in fields] for _ in range(w.draw.randrange(1, 6))
    ]
    kind = w.draw.random()
    if kind < 0.4:
        made = [dict(zip(fields, row, strict=True)) for row in rows]
        return Texts(w.ask(), text, json.dumps(made, ensure_ascii=False, indent=w.draw.choice((None, 2, 4))))
    if kind < 0.7:
        lines = [fields, ["---"] * len(fields), *rows]
        return Texts(w.ask(), text, "\n".join("| " + " | ".join(line) + " |" for line in lines))
    return Texts(w.ask(), text, "\n".join(",".join(line) for line in [fields, *rows]))


def links(w: Writer) -> Texts:
    """URLs, addresses, paths, hashes and versions among prose."""
    parts = []
    for _ in range(1 + w.long() // 16):
        a, b, c, d = w.voice.take(4)
        n = w.draw.getrandbits(40)
        thing = (
            f"https://www.{a}{b}.com/{c}-{d}/{n % 10_000}",
            f"http://{a}.org/{b}/index.php?{c}={n % 977}&id={n:x}",
            f"{a}.{b}@{c}.net",
            f"/usr/local/{a}/{b}_{c}.{n % 9}.tar.gz",
            f"C:\\Users\\{a.capitalize()}\\{b}\\{c}.docx",
            f"{n:010x}{n * 31 % (1 << 40):010x}",
            f"v{n % 7}.{n % 31}.{n % 13}-{a}",
            f"#{a}{b.capitalize()} @{c}_{n % 100}",
        )[n % 8]
        parts.append(f"{w.sentence(5 + n % 9).rstrip()} {thing}" + ("\n" if n % 5 == 0 else ". "))
    return Texts(w.prose(w.short()), "", "".join(parts).rstrip())


def maths(w: Writer) -> Texts:
    """Word problems with their working, and formulas."""
    lines = []
    total = w.draw.randrange(2, 60)
    story = [w.sentence(9).rstrip() + f" {total} {w.phrase(2)}."]
    for _ in range(1 + int(w.draw.expovariate(0.5))):
        value, thing = w.draw.randrange(2, 90), w.phrase(2)
        kind = w.draw.randrange(5)
        story.append(f"{w.sentence(7).rstrip()} {value} {thing}.")
        if kind == 0:
            lines.append(f"{w.sentence(5).rstrip()} {total} + {value} = {total + value} {thing}.")
            total += value
        elif kind == 1:
            lines.append(f"{w.sentence(4).rstrip()} {total}*{value}=<<{total}*{value}={total * value}>>{total * value}")
            total *= value % 10 + 1
        elif kind == 2:
            lines.append(f"\\frac{{{total}}}{{{value}}} = {total / value:.2f}, x_{{{kind}}} \\leq {value}^2")
        elif kind == 3:
            lines.append(f"f(x) = {value}x^2 - {total}x + {kind}, ∑ aᵢ ≤ ∫ {value}·dx ≈ {total / value:.3f}")
        else:
            lines.append(f"{w.phrase(6)} ${total} - ${value} = ${total - value}")
    return Texts(" ".join(story) + f" {w.sentence(8).rstrip()}", "", "\n".join([*lines, f"#### {total}"]))


def _snippets(text: str) -> list[str]:
    """Pieces of code with a line of dashes between them; names and numbers to be filled in."""
    return [f"{piece}\n" for piece in text.rstrip("\n").split("\n---\n")]


_PYTHON: Final = _snippets("""\
def {a}({b}, {c}=None):
    '''{words}'''
    if not {b}:
        return {c}
    return {b}.{d}({n})
---
class {A}({B}):
    def __init__(self, {b}: int = {n}) -> None:
        self.{b} = {b}
        self._{c} = []
---
for {a}, {b} in enumerate({c}):
    if {b} % {n} == 0:
        {d}.append({b} ** 2)  # {words}
---
import {a}
from {b}.{c} import {A}, {D}
---
{a} = {{'{b}': {n}, '{c}': [{d} for {d} in range({n}) if {d} > 1]}}
print(f"{words}: {{{a}['{b}']}}")
---
try:
    with open({a}, 'r') as {b}:
        {c} = {b}.read().split()
except ValueError as error:
    raise {A}Error({n}) from error
---
    while {a} < len({b}) and {b}[{a}] != {c}:
        {a} += 1
    assert {a} >= {n}, "{words}"
""")
_BRACES: Final = _snippets("""\
function {a}({b}, {c}) {{
  const {d} = {b}.map(x => x * {n});
  return {d}.filter(Boolean).length > {c};
}}
---
public static int {a}(int[] {b}, String {c}) {{
    for (int i = 0; i < {b}.length; i++) {{
        if ({b}[i] == {n}) {{
            return i;
        }}
    }}
    return -1;
}}
---
#include <{a}.h>

int main(int argc, char **argv) {{
\tchar *{b} = malloc({n} * sizeof(char));
\tprintf("{words}: %d\\n", {c});
\treturn 0;
}}
---
// {words}
let {a} = await {b}.{c}({{ {d}: {n}, id: '{a}' }});
if (!{a}) throw new Error(`{words} ${{{b}}}`);
---
    std::vector<{A}> {b}({n});
    {b}.push_back({A}{{{c}, &{d}}});
---
pub fn {a}<T: {B}>(&mut self, {b}: &[T]) -> Result<usize, {A}Error> {{
    self.{c}.insert({n}, {b}.len());
    Ok({n})
}}
""")
_OTHER: Final = _snippets("""\
SELECT {a}.{b}, COUNT(*) AS {c}
FROM {a}
LEFT JOIN {d} ON {a}.id = {d}.{a}_id
WHERE {b} > {n}
GROUP BY {a}.{b};
---
CREATE TABLE {a} (
  id INTEGER PRIMARY KEY,
  {b} VARCHAR({n}) NOT NULL,
  {c} TIMESTAMP DEFAULT NOW()
);
---
#!/bin/bash
for {a} in $(ls -1 /var/{b}/*.{c}); do
  grep -v '{d}' "${a}" | sort -n | uniq -c >> {b}_{n}.log
done
---
<div class="{a}-{b}" id="{c}{n}">
  <h2>{words}</h2>
  <a href="/{d}?p={n}">{A}</a>
</div>
---
.{a}-{b} > .{c} {{
  margin: {n}px auto;
  background: #{n:06x};
}}
---
{a}:
  - name: {b}-{c}
    image: "{d}/{a}:{n}"
    env:
      {A}_{B}: "{words}"
""")


def _code(templates: Sequence[str], fence: str) -> Callable[[Writer], Texts]:
    def made(w: Writer) -> Texts:
        words = [w.draw.choice(w.usual) if w.draw.random() < 0.8 else word for word in w.voice.take(12)]
        camel = w.draw.random() < 0.4
        names = [
            *words[:5],
            *(a + (b.capitalize() if camel else f"_{b}") for a, b in zip(words[4:8], words[8:], strict=True)),
        ]
        blocks = []
        for _ in range(1 + int(w.draw.expovariate(0.35) * w.length)):
            a, b, c, d = w.draw.sample(names, 4)
            text = w.draw.choice(templates).format(
                a=a, b=b, c=c, d=d, n=w.draw.randrange(300), words=" ".join(w.voice.take(3)),
                A=a.title().replace("_", ""), B=b.title().replace("_", ""), D=d.title().replace("_", ""),
            )  # fmt: skip
            blocks.append(text)
        code = ("\n" if w.draw.random() < 0.5 else "").join(blocks)
        kind = w.draw.random()
        if kind < 0.5:
            return Texts(w.prose(w.short()), "", code.rstrip())
        fenced = f"```{fence}\n{code}```"
        if kind < 0.85:
            return Texts(w.prose(w.short()), "", f"{w.sentence(8).rstrip()}\n\n{fenced}\n\n{w.prose(14)}")
        return Texts(w.ask(), code, w.prose(w.long()))

    made.__name__ = f"code_{fence}"
    return made


python, braces, other_code = _code(_PYTHON, "python"), _code(_BRACES, "javascript"), _code(_OTHER, "sql")

_EMOJI: Final = (
    "😀",
    "😂",
    "❤️",
    "🔥",
    "👍",
    "👍🏽",
    "🎉",
    "🙏",
    "✨",
    "🚀",
    "👩‍💻",
    "👨‍👩‍👧",
    "🇫🇷",
    "🇧🇷",
    "✅",
    "1️⃣",
    "☕",
    "🏳️‍🌈",
    "→",
    "•",
    "½",
    "™",
    "€",
)


def chat(w: Writer) -> Texts:
    """Informal: emoji, ellipses, shouting, stretched words, missing capitals."""

    def line() -> str:
        text = w.phrase(2 + w.draw.randrange(10))
        kind = w.draw.random()
        if kind < 0.45:
            return f"{text} {w.draw.choice(_EMOJI) * (1 + int(w.draw.random() ** 3 * 4))}"
        return text.upper() + "!!!" if kind < 0.55 else text + "..." if kind < 0.75 else text + text[-1] * 3 + " lol"

    return Texts(line(), "", "\n".join(line() for _ in range(1 + w.long() // 7)))
