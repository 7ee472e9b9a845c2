"""Is the tokenizer of the trainer the one that the data set was counted with?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from tokenizers import Tokenizer

from mosaic_ray.errors import SettingsError
from mosaic_ray.tokens import TokenizerSpec, load_tokenizer


def check_tokenizer(tokenizer: Any, stated: Mapping[str, Any]) -> None:
    """Raise SettingsError, naming both, unless ``tokenizer`` is the one that a manifest states.

    tokenizer: a tokenizer of transformers, or the name or directory of one.
    stated: the ``tokenizer`` of the manifest.

    What decides the tokens of a sample is compared: the definition, the special tokens of the manifest, and the chat
    template if there is one. Not the padding token, which trainers set or add as they need it, nor the name. Raises
    TokenizerError for a name under which nothing usable is found.
    """
    found = load_tokenizer(os.fspath(tokenizer)) if isinstance(tokenizer, str | os.PathLike) else _spec(tokenizer)
    special, template = stated["special_tokens"], stated["chat_template"]
    if stated["digest"] not in (
        TokenizerSpec(name="", definition=definition, special_tokens=special, chat_template=template).digest
        for definition in _definitions(found, special)
    ):
        raise _another(found, stated, "its vocabulary, merges or added tokens differ. Give the tokenizer of the run")
    for name, text in special.items():
        if name != "pad_token" and found.special_tokens.get(name) != text:
            raise _another(
                found, stated, f"{name} is {found.special_tokens.get(name)!r} here, {text!r} there. Set it as it was"
            )
    if template is not None and found.chat_template != template:
        raise _another(
            found, stated, "its chat template differs. Set tokenizer.chat_template to tokenizer.chat_template of the "
            "manifest, or run again with this one"
        )  # fmt: skip


def _definitions(found: TokenizerSpec, special: Mapping[str, str]) -> Iterator[str]:
    """The definition as it is, then without the padding token that a trainer may have added to it."""
    yield found.definition
    pad = found.special_tokens.get("pad_token")
    if pad is not None and pad not in special.values():
        parsed = orjson.loads(found.definition)
        parsed["added_tokens"] = [token for token in parsed["added_tokens"] if token["content"] != pad]
        yield orjson.dumps(parsed).decode()


def _another(found: TokenizerSpec, stated: Mapping[str, Any], problem: str) -> SettingsError:
    return SettingsError(
        f"tokenizer {found.name!r} ({found.digest}) is not that of the data set, {stated.get('name', '')!r} "
        f"({stated['digest']}): {problem}"
    )


def _spec(tokenizer: Any) -> TokenizerSpec:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise SettingsError(
            f"tokenizer={type(tokenizer).__name__}: not a fast tokenizer of transformers. Give one, or the name or "
            "directory of one"
        )
    exact = Tokenizer.from_str(backend.to_str())
    exact.no_truncation()
    exact.no_padding()
    template = tokenizer.chat_template
    return TokenizerSpec(
        name=str(tokenizer.name_or_path),
        definition=exact.to_str(),
        special_tokens={
            name: str(text) for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)
        },
        chat_template=template.get("default") if isinstance(template, Mapping) else template,
    )
