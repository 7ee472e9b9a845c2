"""Training on responses, and testing by greedy decoding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from model import PADDING, Model, continued
from prepare import Row
from torch.nn import functional as F

from mosaic_ray.seeding import Key

WINDOW = 64
"""Batches that are cut at once from rows put in order of length, so that little is padding; then they are shuffled."""

TEST_BATCH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a model is trained; the same for every arm. warm_up: share of the steps."""

    rows: int
    rate: float
    warm_up: float
    weight_decay: float


def batches(rows: Sequence[Row], *, size: int, key: Key) -> Iterator[list[Row]]:
    """Full batches without end: pass after pass over the rows, each in an order of its own."""
    pool: list[Row] = []
    number = 0
    while True:
        draw = key.child("pass", number).draw()
        pool += [rows[place] for place in draw.shuffle(len(rows))]
        while len(pool) >= WINDOW * size:
            window = sorted(pool[: WINDOW * size], key=lambda row: len(row.ids))
            del pool[: WINDOW * size]
            for place in draw.shuffle(WINDOW):
                yield window[place * size : (place + 1) * size]
        number += 1


def train(
    model: Model, rows: Sequence[Row], *, steps: int, recipe: Recipe, key: Key, told: Callable[[int, float], None]
) -> int:
    """Take that many steps of AdamW, and return how many tokens the model saw, padding left out.

    The loss is the mean over the tokens of the responses of a batch, their end tokens among them.
    told: called now and then with the steps done and the loss.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True
    )
    warm_up = max(1, round(recipe.warm_up * steps))
    source = batches(rows, size=recipe.rows, key=key)
    tokens = 0
    for step in range(steps):
        done = max(0, step - warm_up) / max(1, steps - warm_up)
        share = min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * share
        batch = next(source)
        tokens += sum(len(row.ids) for row in batch)
        loss = _loss(model, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 200 == 0 or step + 1 == steps:
            told(step + 1, loss.item())
    return tokens


def _loss(model: Model, batch: Sequence[Row]) -> torch.Tensor:
    width = max(len(row.ids) for row in batch)
    ids = torch.tensor([[PADDING] * 2 + row.ids + [PADDING] * (width - len(row.ids)) for row in batch])
    trained = torch.tensor(
        [[row.prompt <= place < len(row.ids) for place in range(1, width)] for row in batch]
    )  # of the token that comes next
    hidden, _ = model(ids[:, :-1])
    return F.cross_entropy(model.scores(hidden[trained]), ids[:, 3:][trained])


def written(model: Model, rows: Sequence[Row], *, end: int) -> list[list[int]]:
    """What the model writes to each prompt, up to 8 tokens more than the right response has."""
    order = sorted(range(len(rows)), key=lambda place: rows[place].prompt)
    found: list[list[int]] = [[] for _ in rows]
    for start in range(0, len(order), TEST_BATCH):
        places = order[start : start + TEST_BATCH]
        most = 8 + max(len(rows[place].ids) - rows[place].prompt for place in places)
        prompts = [rows[place].ids[: rows[place].prompt] for place in places]
        for place, ids in zip(places, continued(model, prompts, end=end, most=most), strict=True):
            found[place] = ids
    return found
