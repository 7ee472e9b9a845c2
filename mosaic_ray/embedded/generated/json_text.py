"""Reading, writing, repairing and changing JSON."""

from __future__ import annotations

import json

from mosaic_ray.embedded.entry import Entry
from mosaic_ray.embedded.generated.draws import CITIES, GOODS, NAMES, WORDS, Template, between, sample
from mosaic_ray.seeding import Draw


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _fenced(value: object, *, indent: int | None = None) -> str:
    return f"```json\n{json.dumps(value, indent=indent)}\n```"


def _person(draw: Draw) -> dict[str, object]:
    return {"name": draw.choice(NAMES), "age": between(draw, 18, 80), "city": draw.choice(CITIES)}


def _stock(draw: Draw, count: int) -> list[dict[str, object]]:
    return [{"item": item, "count": between(draw, 0, 40)} for item, _ in sample(draw, GOODS, count)]


def from_sentence(draw: Draw) -> Entry:
    person = _person(draw)
    return Entry(
        ask="Write the facts as a JSON object with the keys name, age and city. "
        f"{person['name']} is {person['age']} years old and lives in {person['city']}.",
        answer=json.dumps(person),
    )


def from_csv(draw: Draw) -> Entry:
    rows = [_person(draw) for _ in range(3)]
    lines = ["name,age,city", *(f"{row['name']},{row['age']},{row['city']}" for row in rows)]
    return Entry(
        ask=draw.choice(("Convert this CSV to a JSON array of objects.", "CSV to JSON, please. Ages are numbers.")),
        given="\n".join(lines),
        answer=_fenced(rows, indent=2),
    )


def to_list(draw: Draw) -> Entry:
    stock = _stock(draw, 4)
    return Entry(
        ask="Turn this JSON into a plain list of lines of the form item: count.",
        given=json.dumps(stock),
        answer="\n".join(f"{row['item']}: {row['count']}" for row in stock),
    )


def repair(draw: Draw) -> Entry:
    person = _person(draw)
    right = json.dumps(person)
    wrong, reason = draw.choice(
        (
            (right.replace("}", ",}"), "There was a comma after the last value."),
            (right.replace('"', "'"), "JSON strings and keys need double quotes, not single ones."),
            (right.replace('"age":', '"age"'), 'The colon after "age" was missing.'),
            (right[:-1], "The closing brace was missing."),
        )
    )
    return Entry(ask="Repair this JSON and say what was wrong.", given=wrong, answer=f"{_fenced(person)}\n\n{reason}")


def pretty(draw: Draw) -> Entry:
    value = {"order": between(draw, 100, 999), "customer": _person(draw), "items": sample(draw, WORDS, 3)}
    return Entry(
        ask="Format this JSON with an indentation of two spaces.",
        given=_compact(value),
        answer=_fenced(value, indent=2),
    )


def minify(draw: Draw) -> Entry:
    value = {"colour": draw.choice(("red", "green", "blue")), "sizes": sample(draw, range(30, 50), 3), "stock": True}
    return Entry(
        ask="Remove all white space that this JSON does not need.",
        given=json.dumps(value, indent=4),
        answer=_compact(value),
    )


def at_path(draw: Draw) -> Entry:
    members = [_person(draw) for _ in range(3)]
    place, key = draw.below(3), draw.choice(("name", "age", "city"))
    return Entry(
        ask=f"What is the value of club.members[{place}].{key} in this JSON? Indices start at 0.",
        given=json.dumps({"club": {"founded": between(draw, 1900, 2020), "members": members}}),
        answer=json.dumps(members[place][key]),
    )


def sorted_keys(draw: Draw) -> Entry:
    value = {word: between(draw, 1, 99) for word in sample(draw, WORDS, 5)}
    return Entry(
        ask="Sort the keys of this JSON object alphabetically and leave the values as they are.",
        given=json.dumps(value),
        answer=json.dumps(value, sort_keys=True),
    )


def renamed(draw: Draw) -> Entry:
    person = _person(draw)
    old, new = draw.choice((("city", "home"), ("name", "first_name"), ("age", "years")))
    return Entry(
        ask=f'Rename the key "{old}" to "{new}". Return only the JSON.',
        given=json.dumps(person),
        answer=json.dumps({new if key == old else key: value for key, value in person.items()}),
    )


def merged(draw: Draw) -> Entry:
    words = sample(draw, WORDS, 4)
    first = {word: between(draw, 1, 50) for word in words[:3]}
    second = {word: between(draw, 51, 99) for word in words[2:]}
    return Entry(
        ask="Merge the two JSON objects. Where both have a key, the second one wins.",
        given=f"{json.dumps(first)}\n{json.dumps(second)}",
        answer=f'{_fenced(first | second)}\n\nOnly "{words[2]}" is in both; its value comes from the second object.',
    )


def filtered(draw: Draw) -> Entry:
    stock, limit = _stock(draw, 5), between(draw, 10, 25)
    return Entry(
        ask=f"Keep only the objects whose count is at least {limit}. Answer with a JSON array.",
        given=json.dumps(stock),
        answer=json.dumps([row for row in stock if int(str(row["count"])) >= limit]),
    )


def totalled(draw: Draw) -> Entry:
    stock = _stock(draw, 4)
    counts = [int(str(row["count"])) for row in stock]
    return Entry(
        ask='Add up all values of "count" in this JSON array.',
        given=json.dumps(stock),
        answer=f"{' + '.join(map(str, counts))} = {sum(counts)}",
    )


TEMPLATES: tuple[Template, ...] = (
    from_sentence, from_csv, to_list, repair, pretty, minify, at_path, sorted_keys, renamed, merged, filtered, totalled,
)  # fmt: skip
