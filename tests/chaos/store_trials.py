"""The faults of stores that are tried, and how often."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from tests.chaos import faults
from tests.chaos.faults import after, listing_with_the_deleted
from tests.chaos.proxy import Entry, Fault, Rule
from tests.chaos.site import Change
from tests.chaos.store import Scene, StoreTrial

ON_RAY: Final = ("--workers", "2")

ANY: Final = ""
READ: Final = r"^GET /[^?]+$"
"""Of an object, in part or whole."""
LIST: Final = r"^GET /[^/]+/?\?.*list-type=2"
WRITE: Final = r"^PUT /[^?]+$"
DELETE: Final = r"^DELETE /[^?]+$"
PART: Final = r"^PUT /.*partNumber="
COMPLETE: Final = r"^POST /.*\?uploadId="
MANIFEST: Final = r"^PUT /.*/manifest\.json$"
LEASE: Final = r"^PUT /.*/leases/"
SECOND_RECEIPT: Final = r"^PUT /.*/receipts/task-00001\.json$"

Rules = Callable[[Scene], list[Rule]]


def burst(fault: Fault, pattern: str = ANY, *, most: int = 4) -> Rules:
    """One to ``most`` requests in a row are struck, from a moment that is drawn."""
    return lambda scene: [
        Rule(fault=fault, pattern=pattern, skip=scene.moment(pattern), times=scene.dice.randint(1, most))
    ]


def throughout(fault: Fault, pattern: str = ANY, *, share: float) -> Rules:
    return lambda _: [Rule(fault=fault, pattern=pattern, times=None, share=share)]


def for_good(fault: Fault, pattern: str = ANY) -> Rules:
    """From a moment that is drawn, every request."""
    return lambda scene: [Rule(fault=fault, pattern=pattern, skip=scene.moment(pattern), times=None)]


def on_one_key(fault: Fault) -> Rules:
    """Every request for one key, drawn from those that an undisturbed run makes."""

    def rules(scene: Scene) -> list[Rule]:
        keys = sorted({re.sub(r"^/[^/]+", "", line.split(" ")[1]) for line in scene.requests if "?" not in line})
        return [Rule(fault=fault, pattern=f"{re.escape(scene.dice.choice(keys))}$", times=None)]

    return rules


def changes(how: Change) -> Rules:
    """One file of the input changes, at a moment between the first request and the last."""
    return lambda scene: [Rule(fault=after(scene.change(how)), pattern=ANY, skip=scene.moment(ANY))]


def ghosts(scene: Scene) -> list[Rule]:
    """Listings show what was deleted, and a file of the input that was deleted before the run."""
    entry = Entry('"0123456789abcdef0123456789abcdef"', 1000, 0.0)
    shown = {f"{scene.source}/sft/ghost.jsonl": entry} if scene.dice.random() < 0.5 else {}
    return [Rule(fault=listing_with_the_deleted(shown), pattern=LIST, times=None)]


def storm(scene: Scene) -> list[Rule]:
    """A little of everything that passes."""
    kinds = [
        (faults.slow_down, ANY), (faults.internal_error, ANY), (faults.refused, ANY), (faults.reset_in_body, READ),
        (faults.ends_early, READ), (faults.answer_lost, ANY), (faults.html_page, ANY), (faults.drip, READ),
    ]  # fmt: skip
    scene.dice.shuffle(kinds)
    return [Rule(fault=fault, pattern=pattern, times=None, share=0.02) for fault, pattern in kinds]


TRIALS: Final = (
    StoreTrial(name="503 SlowDown, a burst", rules=burst(faults.slow_down), times=24, must="survive"),
    StoreTrial(name="503 SlowDown, one in five", rules=throughout(faults.slow_down, share=0.2), times=12),
    StoreTrial(name="503 SlowDown for good", rules=for_good(faults.slow_down), times=10, must="refuse", patience=6),
    StoreTrial(name="500 InternalError, a burst", rules=burst(faults.internal_error), times=20, must="survive"),
    StoreTrial(name="502 from a gateway", rules=burst(faults.html_page), times=10, must="survive"),
    StoreTrial(name="connection reset, nothing done", rules=burst(faults.refused), times=14, must="survive"),
    StoreTrial(name="reset in the middle of a body", rules=burst(faults.reset_in_body, READ), times=20, must="survive"),
    StoreTrial(name="body ends before its length", rules=burst(faults.ends_early, READ), times=20, must="survive"),
    StoreTrial(name="short body, length agrees", rules=burst(faults.short_body, READ), times=20),
    StoreTrial(name="short listing, length agrees", rules=burst(faults.short_body, LIST), times=8),
    StoreTrial(name="no answer, one request", rules=burst(faults.silence, most=1), times=12, must="survive"),
    StoreTrial(name="no answer, for good", rules=for_good(faults.silence), times=4, must="refuse", patience=6),
    StoreTrial(name="slow drip", rules=burst(faults.drip, READ), times=12, must="survive"),
    StoreTrial(name="wrong ETag header", rules=burst(faults.wrong_etag, r"^(GET|HEAD) /[^?]+$"), times=16),
    StoreTrial(name="ExpiredToken, once", rules=burst(faults.expired_token, most=1), times=12),
    StoreTrial(
        name="ExpiredToken for good", rules=for_good(faults.expired_token), times=12, must="refuse", patience=6
    ),
    StoreTrial(name="403 on one key", rules=on_one_key(faults.forbidden), times=20, must="refuse"),
    StoreTrial(name="store gone for good", rules=for_good(faults.refused), times=10, must="refuse", patience=6),
    StoreTrial(name="a file vanishes", rules=changes("gone"), times=14),
    StoreTrial(name="a file changes, other size", rules=changes("other size"), times=14),
    StoreTrial(name="a file changes, same size", rules=changes("same size"), times=20),
    StoreTrial(
        name="stale listing: newest missing",
        rules=throughout(faults.listing_without_the_newest, LIST, share=1.0),
        times=8,
    ),
    StoreTrial(
        name="  newest missing, resumed",
        rules=throughout(faults.listing_without_the_newest, LIST, share=0.5),
        times=8,
        begun=SECOND_RECEIPT,
    ),
    StoreTrial(name="stale listing: deleted shown", rules=ghosts, times=8),
    StoreTrial(name="  deleted shown, resumed", rules=ghosts, times=8, begun=MANIFEST),
    StoreTrial(name="answer to a PUT lost", rules=burst(faults.answer_lost, WRITE), times=20, must="survive"),
    StoreTrial(name="  of the manifest", rules=burst(faults.answer_lost, MANIFEST, most=1), times=6, must="survive"),
    StoreTrial(name="  of a lease", rules=burst(faults.answer_lost, LEASE, most=1), times=9, must="survive"),
    StoreTrial(name="answer to a DELETE lost", rules=burst(faults.answer_lost, DELETE, most=2), times=8),
    StoreTrial(
        name="a part fails, a burst", rules=burst(faults.internal_error, PART, most=2), times=4, kind="large",
        must="survive",
    ),
    StoreTrial(
        name="a part fails for good", rules=for_good(faults.internal_error, PART), times=4, kind="large",
        must="refuse", patience=6,
    ),
    StoreTrial(
        name="answer to the completion lost", rules=burst(faults.answer_lost, COMPLETE, most=1), times=3, kind="large",
    ),
    StoreTrial(
        name="completion fails with 200", rules=burst(faults.error_in_a_success, COMPLETE, most=1), times=3,
        kind="large",
    ),
    StoreTrial(name="a storm of all that passes", rules=storm, times=20),
    StoreTrial(name="on Ray: 503, one in twenty", rules=throughout(faults.slow_down, share=0.05), times=4,
               engine=ON_RAY),
    StoreTrial(name="on Ray: a storm", rules=storm, times=4, engine=ON_RAY),
)  # fmt: skip
