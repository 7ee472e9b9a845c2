"""Questions whose answer stands in a table or a text that comes with them."""

from __future__ import annotations

from collections.abc import Sequence

from mosaic_ray.embedded.entry import Entry
from mosaic_ray.embedded.generated.draws import CITIES, GOODS, NAMES, WORDS, Template, between, sample
from mosaic_ray.seeding import Draw

Row = tuple[object, ...]


def _table(draw: Draw, header: Sequence[str], rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, as CSV, or one line a row with the column names."""
    kind = draw.below(3)
    cells = [[str(cell) for cell in row] for row in rows]
    if kind == 0:
        lines = [header, ["---"] * len(header), *cells]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if kind == 1:
        return "\n".join(",".join(line) for line in [header, *cells])
    return "\n".join("; ".join(f"{name}: {cell}" for name, cell in zip(header, row, strict=True)) for row in cells)


def _prices(draw: Draw, count: int) -> list[tuple[str, str, int]]:
    """Goods with their group and different prices."""
    prices = sample(draw, range(3, 60), count)
    return [(name, group, price) for (name, group), price in zip(sample(draw, GOODS, count), prices, strict=True)]


def _people(draw: Draw, count: int) -> list[tuple[str, int, str]]:
    """Names with different ages and with cities of which some are the same."""
    ages = sample(draw, range(18, 80), count)
    cities = sample(draw, CITIES, 3)
    names = sample(draw, NAMES, count)
    return [(name, age, draw.choice(cities)) for name, age in zip(names, ages, strict=True)]


def price(draw: Draw) -> Entry:
    rows = _prices(draw, between(draw, 4, 7))
    item, _, euros = draw.choice(rows)
    return Entry(
        ask=draw.choice((f"What is the price of the {item}?", f"Look up the price of the {item}.")),
        given=_table(draw, ("item", "group", "price"), rows),
        answer=draw.choice((str(euros), f"The price is {euros}.")),
    )


def extreme(draw: Draw) -> Entry:
    rows = _people(draw, between(draw, 4, 8))
    oldest = draw.chance()
    name, age, city = (max if oldest else min)(rows, key=lambda row: row[1])
    return Entry(
        ask=f"Who is the {'oldest' if oldest else 'youngest'} person in the table, and where does this person live?",
        given=_table(draw, ("name", "age", "city"), rows),
        answer=f"{name}, {age} years old, who lives in {city}.",
    )


def above(draw: Draw) -> Entry:
    rows = _prices(draw, between(draw, 5, 8))
    limit = between(draw, 15, 40)
    found = [item for item, _, euros in rows if euros > limit]
    return Entry(
        ask=f"How many items cost more than {limit}? Name them.",
        given=_table(draw, ("item", "group", "price"), rows),
        answer=f"{len(found)}: {', '.join(found)}" if found else f"None; no item costs more than {limit}.",
    )


def group(draw: Draw) -> Entry:
    rows = _prices(draw, between(draw, 5, 8))
    wanted = draw.choice(rows)[1]
    return Entry(
        ask=f'List all items of the group "{wanted}" in the order of the table, one per line.',
        given=_table(draw, ("item", "group", "price"), rows),
        answer="\n".join(item for item, kind, _ in rows if kind == wanted),
    )


def column_sum(draw: Draw) -> Entry:
    rows = _prices(draw, between(draw, 3, 5))
    values = [euros for _, _, euros in rows]
    return Entry(
        ask=draw.choice(('Add up the column "price".', "What do all items cost together?")),
        given=_table(draw, ("item", "group", "price"), rows),
        answer=f"{' + '.join(map(str, values))} = {sum(values)}",
    )


def residents(draw: Draw) -> Entry:
    rows = _people(draw, between(draw, 5, 8))
    city = draw.choice(rows)[2]
    found = [name for name, _, home in rows if home == city]
    return Entry(
        ask=f"Which of these people live in {city}?",
        given=_table(draw, ("name", "age", "city"), rows),
        answer="\n".join(f"- {name}" for name in found),
    )


def next_train(draw: Draw) -> Entry:
    start = 6 * 60 + between(draw, 0, 50)
    gap = between(draw, 35, 70)
    stops = sample(draw, CITIES, 5)
    leaves = [start + gap * i for i in range(5)]
    now = between(draw, start + 1, leaves[-1])
    place = next(i for i, minute in enumerate(leaves) if minute >= now)
    rows = [(_clock(minute), stop) for minute, stop in zip(leaves, stops, strict=True)]
    return Entry(
        ask=f"It is {_clock(now)}. When does the next train leave, and where does it go?",
        given=_table(draw, ("departure", "destination"), rows),
        answer=f"At {rows[place][0]}, to {stops[place]}.",
    )


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def addresses(draw: Draw) -> Entry:
    first, second = sample(draw, NAMES, 2)
    house, shop = sample(draw, WORDS, 2)
    found = [f"{first.lower()}@{house}.example.com", f"{second.lower()}.{between(draw, 10, 99)}@{shop}.example.org"]
    return Entry(
        ask=draw.choice(("Extract the e-mail addresses, one per line.", "Which e-mail addresses occur in this text?")),
        given=f"For questions about the {house} write to {found[0]}; {first} answers within two days. {second} looks "
        f"after bills and can be reached at {found[1]} or by telephone in the morning.",
        answer="\n".join(found),
    )


def missing(draw: Draw) -> Entry:
    planned = sample(draw, WORDS, between(draw, 6, 9))
    absent = set(sample(draw, planned, between(draw, 1, 3)))
    packed = [word for word in sample(draw, planned, len(planned)) if word not in absent]
    return Entry(
        ask="Which words of list A are missing from list B? Keep the order of list A.",
        given=f"A: {', '.join(planned)}\nB: {', '.join(packed)}",
        answer=", ".join(word for word in planned if word in absent),
    )


def sentences(draw: Draw) -> Entry:
    rows = _people(draw, 3)
    return Entry(
        ask="Write one sentence for each row of the table.",
        given=_table(draw, ("name", "age", "city"), rows),
        answer="\n".join(f"{name} is {age} years old and lives in {city}." for name, age, city in rows),
    )


def line_number(draw: Draw) -> Entry:
    words = sample(draw, WORDS, between(draw, 5, 9))
    place = draw.below(len(words))
    return Entry(
        ask=f'On which line does the word "{words[place]}" stand? Count from 1.',
        given="\n".join(words),
        answer=draw.choice((f"Line {place + 1}", f"It stands on line {place + 1}.")),
    )


def order_numbers(draw: Draw) -> Entry:
    name, numbers = draw.choice(NAMES), [f"B-{between(draw, 1000, 9999)}-{place}" for place in range(1, 4)]
    return Entry(
        ask="Find all order numbers in the message and separate them with semicolons.",
        given=f"Hello, this is {name}. Of my three orders only {numbers[0]} has arrived. {numbers[1]} was due last "
        f"week, and for {numbers[2]} I never had a confirmation. My telephone number is 555 01{between(draw, 10, 99)}.",
        answer="; ".join(numbers),
    )


TEMPLATES: tuple[Template, ...] = (
    price, extreme, above, group, column_sum, residents, next_train, addresses, missing, sentences, line_number,
    order_numbers,
)  # fmt: skip
