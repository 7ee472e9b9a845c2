"""A small causal transformer in float32: rotary positions, RMS norms, greedy decoding with a cache of keys and values.

Every position is told the two tokens before it. A transformer has to find out how to look there before it can copy
anything, which takes a small one most of its training ("smeared keys", transformer-circuits.pub, 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PADDING: Final = 0

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer, each (rows, heads, positions, width of a head)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    vocabulary: int
    width: int
    layers: int
    heads: int
    positions: int


class Block(nn.Module):
    """Attention and a feed-forward layer, each on the normed sum of all before it."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.before_attention = nn.RMSNorm(size.width)
        self.queries_keys_values = nn.Linear(size.width, 3 * size.width, bias=False)
        self.attended = nn.Linear(size.width, size.width, bias=False)
        self.before_forward = nn.RMSNorm(size.width)
        self.up = nn.Linear(size.width, 4 * size.width, bias=False)
        self.down = nn.Linear(4 * size.width, size.width, bias=False)

    def forward(
        self, x: Tensor, turns: Tensor, mask: Tensor | None, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x: (rows, positions, width). mask: (rows, 1, positions, positions so far), or None for a causal one."""
        rows, positions, width = x.shape
        mixed = self.queries_keys_values(self.before_attention(x)).view(rows, positions, 3, self.heads, -1)
        q, k, v = mixed.permute(2, 0, 3, 1, 4)
        q, k = _turned(q, turns), _turned(k, turns)
        if past is not None:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        x = x + self.attended(seen.transpose(1, 2).reshape(rows, positions, width))
        return x + self.down(F.relu(self.up(self.before_forward(x))).square()), (k, v)


class Model(nn.Module):
    """The decoder; the table of embeddings is also the output layer. Token 0 is padding."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.table = nn.Embedding(size.vocabulary, size.width)
        self.one_before = nn.Embedding(size.vocabulary, size.width, padding_idx=PADDING)
        self.two_before = nn.Embedding(size.vocabulary, size.width, padding_idx=PADDING)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.width)
        half = size.width // size.heads // 2
        angles = torch.outer(torch.arange(size.positions), 10_000.0 ** (-torch.arange(half) / half))
        self.turns = torch.stack((angles.cos(), angles.sin()))
        for weights in self.parameters():
            if weights.dim() == 2:
                nn.init.normal_(weights, std=0.02)
        for table in (self.one_before, self.two_before):
            nn.init.zeros_(table.weight[PADDING])
        for name, weights in self.named_parameters():
            if name.endswith(("attended.weight", "down.weight")):
                nn.init.normal_(weights, std=0.02 / (2 * size.layers) ** 0.5)

    def forward(
        self, ids: Tensor, *, start: int = 0, mask: Tensor | None = None, past: Cache | None = None
    ) -> tuple[Tensor, Cache]:
        """The last hidden states, (rows, positions - 2, width), and the cache.

        ids: (rows, positions); the first two are only there as those before the others (padding, at the beginning).
        start: position of the third.
        """
        turns = self.turns[:, start : start + ids.shape[1] - 2]
        x, cache = self.table(ids[:, 2:]) + self.one_before(ids[:, 1:-1]) + self.two_before(ids[:, :-2]), []
        for number, block in enumerate(self.blocks):
            x, kept = block(x, turns, mask, past[number] if past else None)
            cache.append(kept)
        return self.norm(x), cache

    def scores(self, hidden: Tensor) -> Tensor:
        """Of every token of the vocabulary, to come next."""
        return F.linear(hidden, self.table.weight)


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary positions: pairs of numbers turned by an angle that grows with the position (arXiv 2104.09864)."""
    a, b = x.chunk(2, -1)
    cos, sin = turns
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


@torch.inference_mode()
def continued(model: Model, prompts: Sequence[Sequence[int]], *, end: int, most: int) -> list[list[int]]:
    """What the model writes after each prompt, greedily, up to the token ``end`` (left out) or ``most`` tokens.

    Prompts are padded on the left; rotary attention sees distances only, so the padding, which is masked, does no harm.
    """
    longest = max(map(len, prompts))
    ids = torch.tensor([[PADDING] * (2 + longest - len(prompt)) + list(prompt) for prompt in prompts])
    real = torch.tensor([[False] * (longest - len(prompt)) + [True] * len(prompt) for prompt in prompts])
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    # A padded position sees itself, because attention over nothing is not a number.
    mask = ((real[:, None, None, :] & causal) | torch.eye(longest, dtype=torch.bool)).contiguous()
    hidden, cache = model(ids, mask=mask)
    written: list[Tensor] = []
    going = torch.ones(len(prompts), dtype=torch.bool)
    for step in range(most):
        following = model.scores(hidden[:, -1]).argmax(-1)
        written.append(torch.where(going, following, end))
        going &= following != end
        if not going.any():
            break
        real = torch.cat((real, torch.ones(len(prompts), 1, dtype=torch.bool)), 1)
        ids = torch.cat((ids[:, -2:], following[:, None]), 1)
        hidden, cache = model(ids, start=longest + step, mask=real[:, None, None, :], past=cache)
    rows = torch.stack(written, 1).tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]
