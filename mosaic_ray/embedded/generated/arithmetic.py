"""Word problems with their working. Every equation is written as ``expression = number``."""

# ruff: noqa: RUF001 (the sign for "times" is meant)

from __future__ import annotations

from mosaic_ray.embedded.entry import Entry
from mosaic_ray.embedded.generated.draws import NAMES, Template, between, sample
from mosaic_ray.seeding import Draw


def _worked(question: str, *steps: str, answer: object) -> Entry:
    return Entry(ask=question, answer="\n".join([*steps, f"Answer: {answer}"]))


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def shopping(draw: Draw) -> Entry:
    name = draw.choice(NAMES)
    (first, first_price), (second, second_price) = sample(
        draw, [("apples", 2), ("notebooks", 4), ("candles", 3), ("tickets", 9), ("mugs", 7), ("plants", 12)], 2
    )
    m, n = between(draw, 3, 9), between(draw, 2, 8)
    a, b = m * first_price, n * second_price
    return _worked(
        f"{name} buys {m} {first} at {first_price} euros each and {n} {second} at {second_price} euros each. "
        f"{draw.choice(('What is the total?', 'How much is it altogether?', 'How many euros does that make?'))}",
        f"The {first} cost {m} × {first_price} = {a} euros.",
        f"The {second} cost {n} × {second_price} = {b} euros.",
        f"Together: {a} + {b} = {a + b} euros.",
        answer=a + b,
    )


def sharing(draw: Draw) -> Entry:
    things = draw.choice(("marbles", "stickers", "cards", "walnuts", "beads"))
    children, each = between(draw, 3, 9), between(draw, 4, 15)
    rest = between(draw, 1, children - 1)
    total = children * each + rest
    return _worked(
        f"{total} {things} are shared equally among {children} children. How many does each child get, and how many "
        "are left over?",
        f"{children} × {each} = {children * each} is the largest multiple of {children} that is not above {total}.",
        f"Left over: {total} - {children * each} = {rest}.",
        answer=f"{each} each, {rest} left over",
    )


def journey(draw: Draw) -> Entry:
    speed, hours, extra = 5 * between(draw, 8, 22), between(draw, 2, 5), between(draw, 10, 60)
    vehicle = draw.choice(("train", "coach", "lorry", "car"))
    part = speed * hours
    return _worked(
        f"A {vehicle} drives for {hours} hours at {speed} km/h and then another {extra} km. How far does it go in all?",
        f"In {hours} hours it covers {speed} × {hours} = {part} km.",
        f"With the rest that is {part} + {extra} = {part + extra} km.",
        answer=f"{part + extra} km",
    )


def rectangle(draw: Draw) -> Entry:
    a, b = between(draw, 11, 30), between(draw, 3, 10)
    place = draw.choice(("garden", "hall", "meadow", "court"))
    return _worked(
        f"A rectangular {place} is {a} m long and {b} m wide. Find its area and the length of a fence around it.",
        f"Area: {a} × {b} = {a * b} square metres.",
        f"Fence: 2 × ({a} + {b}) = {2 * (a + b)} metres.",
        answer=f"{a * b} square metres, {2 * (a + b)} metres",
    )


def discount(draw: Draw) -> Entry:
    price, percent = 20 * between(draw, 2, 15), draw.choice((5, 10, 15, 20, 25, 30, 40))
    thing = draw.choice(("coat", "chair", "bicycle bag", "pair of boots", "desk lamp"))
    off = price * percent // 100
    return _worked(
        f"A {thing} costs {price} euros. In the sale it is {percent} percent cheaper. "
        f"{draw.choice(('What is the sale price?', 'How much do you pay?'))}",
        f"The reduction is {price} × {percent} ÷ 100 = {off} euros.",
        f"The price is {price} - {off} = {price - off} euros.",
        answer=f"{price - off} euros",
    )


def mean(draw: Draw) -> Entry:
    count = between(draw, 4, 6)
    values = [between(draw, 2, 40) for _ in range(count - 1)]
    values.append(count - sum(values) % count + count * between(draw, 1, 4))
    total = sum(values)
    listed = ", ".join(map(str, values))
    return _worked(
        f"{draw.choice(('Find the mean of these numbers', 'What is the average of the numbers'))}: {listed}",
        f"Sum: {' + '.join(map(str, values))} = {total}",
        f"There are {count} numbers: {total} ÷ {count} = {total // count}",
        answer=total // count,
    )


def ages(draw: Draw) -> Entry:
    older, younger = sample(draw, NAMES, 2)
    age, gap, years = between(draw, 6, 19), between(draw, 2, 12), between(draw, 3, 15)
    return _worked(
        f"{younger} is {age} years old. {older} is {gap} years older. How old will they be together in {years} years?",
        f"{older} is {age} + {gap} = {age + gap}.",
        f"In {years} years {younger} is {age} + {years} = {age + years} and {older} is "
        f"{age + gap} + {years} = {age + gap + years}.",
        f"Together: {age + years} + {age + gap + years} = {2 * age + gap + 2 * years}.",
        answer=2 * age + gap + 2 * years,
    )


def recipe(draw: Draw) -> Entry:
    people, grams = draw.choice((2, 4, 5)), 20 * between(draw, 10, 30)
    guests = people * between(draw, 2, 4) + 1
    each = grams // people
    what = draw.choice(("rice", "pasta", "lentils", "potatoes"))
    return _worked(
        f"A recipe for {people} people needs {grams} g of {what}. How much is needed for {guests} people?",
        f"For one person: {grams} ÷ {people} = {each} g.",
        f"For {guests} people: {each} × {guests} = {each * guests} g.",
        answer=f"{each * guests} g",
    )


def change(draw: Draw) -> Entry:
    name, note = draw.choice(NAMES), draw.choice((20, 50))
    first, second = between(draw, 105, 899), between(draw, 105, 899)
    total = first + second
    return _worked(
        f"{name} pays for a sandwich at {_money(first)} and a juice at {_money(second)} with a note of {note}. "
        "How much change is due?",
        f"Total: {_money(first)} + {_money(second)} = {_money(total)}",
        f"Change: {note} - {_money(total)} = {_money(100 * note - total)}",
        answer=_money(100 * note - total),
    )


def tank(draw: Draw) -> Entry:
    flow, leak, minutes = between(draw, 12, 25), between(draw, 2, 9), between(draw, 10, 40)
    net = flow - leak
    return _worked(
        f"Water runs into an empty tank at {flow} litres a minute, while {leak} litres a minute leak out. "
        f"How much water is in it after {minutes} minutes?",
        f"Each minute the tank gains {flow} - {leak} = {net} litres.",
        f"{net} × {minutes} = {net * minutes}",
        answer=f"{net * minutes} litres",
    )


def saving(draw: Draw) -> Entry:
    name, week = draw.choice(NAMES), between(draw, 6, 25)
    start, weeks = between(draw, 5, 40), between(draw, 4, 12)
    goal = start + week * weeks
    thing = draw.choice(("a guitar", "a tent", "a camera", "a skateboard"))
    return _worked(
        f"{name} has {start} euros and saves {week} euros a week for {thing} that costs {goal} euros. "
        "After how many weeks is there enough?",
        f"Still missing: {goal} - {start} = {goal - start} euros.",
        f"{goal - start} ÷ {week} = {weeks}",
        answer=f"{weeks} weeks",
    )


def expression(draw: Draw) -> Entry:
    a, b, c, d = between(draw, 12, 60), between(draw, 12, 60), between(draw, 3, 9), between(draw, 10, 99)
    total = a + b
    return _worked(
        f"{draw.choice(('Compute', 'Work out', 'Evaluate'))} ({a} + {b}) × {c} - {d}, step by step.",
        f"1. {a} + {b} = {total}",
        f"2. {total} × {c} = {total * c}",
        f"3. {total * c} - {d} = {total * c - d}",
        answer=total * c - d,
    )


def passengers(draw: Draw) -> Entry:
    start, off, on = between(draw, 20, 45), between(draw, 3, 15), between(draw, 3, 15)
    last = between(draw, 2, 5)
    here = start - off + on
    return _worked(
        f"A bus leaves with {start} passengers. At the first stop {off} get off and {on} get on. At the second stop "
        f"{last} get off. How many are on the bus now?",
        f"After the first stop: {start} - {off} + {on} = {here}.",
        f"After the second: {here} - {last} = {here - last}.",
        answer=here - last,
    )


def boxes(draw: Draw) -> Entry:
    size, full = draw.choice((6, 8, 10, 12)), between(draw, 7, 30)
    rest = between(draw, 1, size - 1)
    total = size * full + rest
    thing = draw.choice(("eggs", "bottles", "bulbs", "jars"))
    return _worked(
        f"{total} {thing} are packed into boxes of {size}. How many boxes are needed for all of them?",
        f"{full} full boxes hold {full} × {size} = {full * size} {thing}.",
        f"{total} - {full * size} = {rest}, so the rest needs one more box: {full} + 1 = {full + 1}.",
        answer=full + 1,
    )


def ratio(draw: Draw) -> Entry:
    a, b = draw.choice(((2, 3), (1, 4), (3, 5), (3, 4), (2, 5)))
    part = between(draw, 6, 40)
    total = (a + b) * part
    first, second = sample(draw, NAMES, 2)
    return _worked(
        f"{first} and {second} divide {total} euros in the ratio {a} to {b}. How much does each of them get?",
        f"There are {a} + {b} = {a + b} equal parts.",
        f"One part is {total} ÷ {a + b} = {part} euros.",
        f"{first}: {a} × {part} = {a * part} euros. {second}: {b} × {part} = {b * part} euros.",
        answer=f"{first} {a * part} euros, {second} {b * part} euros",
    )


def seats(draw: Draw) -> Entry:
    rows, width, sold = between(draw, 12, 30), between(draw, 14, 28), between(draw, 40, 150)
    return _worked(
        f"A theatre has {rows} rows of {width} seats. {sold} tickets have been sold. How many seats are still free?",
        f"Seats: {rows} × {width} = {rows * width}",
        f"Free: {rows * width} - {sold} = {rows * width - sold}",
        answer=rows * width - sold,
    )


TEMPLATES: tuple[Template, ...] = (
    shopping, sharing, journey, rectangle, discount, mean, ages, recipe, change, tank, saving, expression, passengers,
    boxes, ratio, seats,
)  # fmt: skip
