"""Counting tokens exactly as the trainer will, and knowing which tokenizer that was.

**What is counted.** With a chat template: the conversation rendered by it, encoded without further special tokens, as
``transformers``' ``apply_chat_template(messages)`` does. Without one: instruction, a newline, response and the
end-of-sequence token, encoded with the special tokens that the tokenizer adds by itself (a BOS, say), as TRL's
``SFTTrainer`` does with plain prompts and completions.

**By pieces.** The tokens of a text are not the sum of those of its parts: merges cross the joints. But a text may be
cut where no token can reach across, and where that is, a tokenizer's definition tells (:mod:`.cuts`). Words are counted
once; of texts put together only the seams are looked at again (:mod:`.pieces`); a chat template that only puts fixed
text around is not rendered (:mod:`.frame`). Where any of this is not proven, texts are counted whole, and one
conversation of 1,024 is counted in both ways.

**Control tokens.** A text that spells ``<|im_end|>`` becomes that token when a trainer encodes it. Control tokens are

- the special ones of the tokenizer;
- those added ones that its chat template writes;
- those added ones that are one marker in angle brackets without white space: with a bar inside a bracket
  (``<|fim_prefix|>``; the full-width bar of DeepSeek counts too), or named ``<unusedN>``,
  ``<start_of_...>`` or ``<end_of_...>``. They act on a model even where the tokenizer does not flag them as special.

Other added tokens, such as the HTML tags ``<table>`` and ``<i>`` of Gemma, are text. So is a marker that is no token
of the tokenizer: ``[INST]`` where it is written in plain letters is neither found nor disarmed.
"""

from __future__ import annotations

from mosaic_ray.tokens.counter import MiscountError, TokenCounter
from mosaic_ray.tokens.load import load_tokenizer
from mosaic_ray.tokens.spec import TokenizerSpec

__all__ = ["MiscountError", "TokenCounter", "TokenizerSpec", "load_tokenizer"]
