"""What a run is told: where things are, what it makes of them, and how fast.

They are apart because they count differently. :class:`Settings`, and the options of the method, decide the bytes,
so they are fingerprinted and a resumed run must bring the same. :class:`Places` are addresses: what lies there is
identified by its content (input, tokenizer), so a copy elsewhere gives the same data set. :class:`Views` and
:class:`Execution` may change from one resume to the next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, cast, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from mosaic_ray.errors import SettingsError
from mosaic_ray.io.patience import PATIENCE
from mosaic_ray.methods.base import Method
from mosaic_ray.pulse import STALL_SECONDS

EMBEDDED = "embedded"
"""The name that stands for the corpus, or the tokenizer, that the package ships."""

View = Literal["messages", "prompt-completion", "alpaca", "sharegpt"]
"""Views of text, which a run writes."""

AnyView = Literal["messages", "prompt-completion", "alpaca", "sharegpt", "tokenized", "packed"]
TOKEN_VIEWS: Final = ("tokenized", "packed")
MultiTurn = Literal["pass", "first", "reject"]
Overlong = Literal["reject", "fail"]
SpecialTokens = Literal["escape", "strip", "reject"]
Roles = Literal["instruction", "input", "response", "system", "messages"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


class ViewSpec(_Frozen):
    """One view: what it is, and how long its sequences are if it is ``packed``."""

    view: AnyView
    sequence_length: int | None = None

    @model_validator(mode="after")
    def _length_of_packed(self) -> ViewSpec:
        if (self.view == "packed") != (self.sequence_length is not None):
            raise ValueError("a sequence length belongs to the view packed, and to no other")
        return self

    @property
    def name(self) -> str:
        """What its directory is called."""
        return self.view if self.sequence_length is None else f"{self.view}-{self.sequence_length}"

    @property
    def text_view(self) -> View:
        """Only of a view of text."""
        if self.view in TOKEN_VIEWS:
            raise ValueError(f"{self.view} is no view of text")
        return cast(View, self.view)


class Settings(_Frozen):
    """All that decides the bytes of the output, beside the input and the tokenizer themselves."""

    epochs: int = Field(4, ge=1, le=1000, description="Times the whole corpus is tiled, anew each time.")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="Of everything that is drawn.")
    max_tokens: int = Field(2048, ge=1, le=2**31 - 1, description="Token budget of a sample.")
    view: View = Field("messages", description="Columns of the samples, for the trainer.")
    columns: dict[Roles, str] = Field(
        {},
        description="Names of columns that are not among the known ones, as in instruction=question,response=answer "
        "(also input, system, messages).",
    )
    multi_turn: MultiTurn = Field(
        "pass",
        description="Records with a system prompt or several turns: pass through whole, first turn only, or reject.",
    )
    overlong: Overlong = Field("reject", description="A record over the budget by itself: reject it, or fail the run.")
    special_tokens: SpecialTokens = Field(
        "escape",
        description="A text that spells a special token: escape it by a space, strip it, or reject the record.",
    )
    task_records: int = Field(8192, ge=1, le=2**31 - 1, description="Records that a task mixes and tiles.")
    world_size: int = Field(
        1,
        ge=1,
        le=2**20,
        description="Processes that will train: each epoch has a multiple of so many parts, of nearly equal size.",
    )

    @field_validator("columns", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return parse_pairs(value, "columns") if isinstance(value, str) else value


class Places(_Frozen):
    """Where the input, the output and the tokenizer are."""

    input: tuple[str, ...] = Field(
        (EMBEDDED,),
        min_length=1,
        description="File, directory or glob, on any fsspec URL; may be repeated. 'embedded' is a small corpus that "
        "the package ships.",
    )
    output: str = Field(min_length=1, description="Directory of the data set, on any fsspec URL.")
    since: str | None = Field(
        None,
        description="A data set, or a directory of such, of which the newest counts: take only files of the input that "
        "are new or changed since it was made.",
    )
    tokenizer: str = Field(
        EMBEDDED,
        description="Directory or Hugging Face Hub name of the tokenizer of the model to be trained; needed for any "
        "other input than the embedded one.",
    )
    chat_template: str | None = Field(
        None,
        description="'tokenizer' for its own, 'none' to count plain text, or a Jinja file. Without it: its own where "
        "it has one, else none.",
    )
    input_options: dict[str, str | bool] = Field(
        {},
        description="fsspec options of the input, as in anon=true or endpoint_url=URL. No credentials: those come from "
        "the environment.",
    )
    output_options: dict[str, str | bool] = Field({}, description="The same of the output.")

    @field_validator("input", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value

    @field_validator("input_options", "output_options", mode="before")
    @classmethod
    def _options(cls, value: Any) -> Any:
        pairs = parse_pairs(value, "storage options") if isinstance(value, str) else value
        words: dict[str, str | bool] = {"true": True, "false": False}
        return {k: words.get(str(v).lower(), v) for k, v in pairs.items()} if isinstance(pairs, dict) else pairs

    @model_validator(mode="after")
    def _tokenizer_for_input(self) -> Places:
        if "tokenizer" not in self.model_fields_set and self.input != (EMBEDDED,):
            raise ValueError(
                "tokenizer: missing. Give --tokenizer the tokenizer of the model to be trained: a directory, or a name "
                f"on the Hugging Face Hub; or '{EMBEDDED}' for a trial"
            )
        return self


class Views(_Frozen):
    """Further views of the same samples; they can be made at any time, so they are no part of a run's identity."""

    also: tuple[AnyView, ...] = Field(
        (),
        description=f"Further views of the samples, each a data set under views/, as in tokenized,packed: "
        f"{', '.join(get_args(AnyView))}.",
    )
    sequence_length: int | None = Field(
        None, ge=1, le=2**31 - 1, description="Tokens of a sequence of the view packed. Without it: --max-tokens."
    )

    @field_validator("also", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [name.strip() for name in value.split(",") if name.strip()]
        return tuple(value) if isinstance(value, list) else value


class Workers(_Frozen):
    """How many workers a run may have; ``most`` None is one for every processor of the cluster."""

    least: Annotated[int, Field(ge=1)] = 1
    most: int | None = None

    @classmethod
    def parse(cls, text: str) -> Workers:
        """``4`` is four, ``1:8`` one to eight, ``2:`` two and more."""
        low, colon, high = text.partition(":")
        try:
            least = int(low or 1)
            most = int(high) if high else (None if colon else least)
        except ValueError:
            raise ValueError(f"{text!r} is not MIN:MAX, as in 1:8") from None
        if least < 1 or (most is not None and most < least):
            raise ValueError(f"{text!r} needs 1 <= MIN <= MAX")
        return cls(least=least, most=most)

    def __str__(self) -> str:
        return f"{self.least}:{self.most or ''}"


_UNITS: Final = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
                 "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}  # fmt: skip


def parse_size(value: Any) -> Any:
    """``4GiB``, ``500MB`` or a number as bytes; what is no text as it is. Raises ValueError for what no worker has."""
    if isinstance(value, str):
        found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?(|[KMGT]i?B)", value.strip(), re.ASCII)
        if found is None:
            raise ValueError("not a size, as in 4GiB, 500MB or a number of bytes")
        value = int(float(found[1]) * _UNITS[found[2]])
    if type(value) is int and not 2**26 <= value <= 2**48:
        raise ValueError("it must be between 64MiB and 256TiB")
    return value


class Execution(_Frozen):
    """All that decides speed and patience, and no byte of the output."""

    engine: Literal["ray", "in-process"] = Field("ray", description="Ray, or this process alone.")
    ray_address: str | None = Field(
        None, description="Cluster to join. Without it: RAY_ADDRESS, else a Ray of its own on this machine."
    )
    workers: Workers = Field(
        Workers(), description="MIN:MAX, one processor each. Without MAX: all processors that the cluster has."
    )
    worker_memory: Annotated[int, BeforeValidator(parse_size)] | None = Field(
        None,
        description="Memory that a worker may use, as in 4GiB; Ray reserves it. A task that needs more fails by name.",
    )
    stall_timeout: float = Field(
        STALL_SECONDS,
        gt=0,
        le=604800,
        description="Seconds that a worker may go without a step before its task is taken from it and tried again.",
    )
    store_patience: float = Field(
        PATIENCE,
        gt=0,
        le=86400,
        description="Seconds for which a request is made again that a store does not answer, or refuses for now.",
    )
    max_reject_share: float = Field(
        0.1, ge=0.0, le=1.0, description="Share of the records that may be rejected before the run fails."
    )

    @field_validator("workers", mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        return Workers.parse(str(value)) if isinstance(value, str | int) else value


@dataclass(frozen=True, slots=True)
class Job:
    """One run: its settings by their kinds, and the method with its options."""

    places: Places
    settings: Settings
    views: Views
    execution: Execution
    method: Method

    def further_views(self) -> list[ViewSpec]:
        """The views to make beside the one that the run writes.

        Raises SettingsError for the view of the run itself, and where samples may be longer than a sequence.
        """
        length = self.views.sequence_length or self.settings.max_tokens
        if self.settings.view in self.views.also:
            raise SettingsError(f"also = {self.settings.view}: the run writes this view anyway, by --view")
        if self.views.sequence_length and "packed" not in self.views.also:
            raise SettingsError(
                f"sequence_length = {self.views.sequence_length}: only the view packed has sequences. Add --also packed"
            )
        if "packed" in self.views.also and length < self.settings.max_tokens:
            raise SettingsError(
                f"sequence_length = {length}: a sample may have --max-tokens {self.settings.max_tokens}, and the view "
                "packed holds whole samples. Give a longer sequence, or fewer --max-tokens"
            )
        return [
            ViewSpec(view=view, sequence_length=length if view == "packed" else None)
            for view in dict.fromkeys(self.views.also)
        ]


def models_of(method: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The models whose fields are all the options there are, by the part of a :class:`Job` they make."""
    return {"places": Places, "settings": Settings, "method": method, "views": Views, "execution": Execution}


def job_from(options: Mapping[str, Any], method: type[BaseModel]) -> Job:
    """A job from flat options, as the command line and a YAML file give them; dashes and underscores are the same.

    method: the method's class, a model whose fields are its options.

    Raises SettingsError that names every unknown or unusable option, with what it may be.
    """
    parts = models_of(method)
    flat = {str(name).replace("-", "_"): value for name, value in options.items()}
    known = {field: part for part, model in parts.items() for field in model.model_fields}
    unknown = sorted(set(flat) - set(known))
    if unknown:
        what = "options" if len(unknown) > 1 else "option"
        raise SettingsError(f"unknown {what} {', '.join(unknown)}. Known are: {', '.join(sorted(known))}")
    built: dict[str, Any] = {}
    problems: list[str] = []
    for part, model in parts.items():
        try:
            built[part] = model(**{name: value for name, value in flat.items() if known[name] == part})
        except ValidationError as error:
            problems += [_sentence(problem) for problem in error.errors()]
    if problems:
        raise SettingsError("; ".join(problems))
    return Job(**built)


def parse_pairs(text: str, what: str) -> dict[str, str]:
    """``a=b,c=d`` as a dictionary. Raises ValueError for anything else."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if any(not equals or not key.strip() or not value.strip() for key, equals, value in pairs):
        raise ValueError(f"{what} are not NAME=VALUE,NAME=VALUE")
    return {key.strip(): value.strip() for key, _, value in pairs}


def _sentence(problem: Mapping[str, Any]) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    location = ".".join(step for step in problem["loc"] if isinstance(step, str) and step != "[key]")
    if not location:
        return message
    if problem["type"] == "missing":
        return f"{location}: missing. Give --{location.replace('_', '-')}"
    shown = location if "options" in location else f"{location} = {problem['input']!r}"  # may be a credential
    return f"{shown}: {message[:1].lower()}{message[1:]}"
