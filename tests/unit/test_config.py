"""What a run is told: defaults, what is refused and in which words, and what counts for a run's identity."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mosaic_ray.config import (
    EMBEDDED,
    Execution,
    Job,
    Places,
    Settings,
    ViewSpec,
    Workers,
    job_from,
    models_of,
    parse_pairs,
)
from mosaic_ray.errors import InputError, SettingsError, StorageError
from mosaic_ray.fingerprint import fingerprint
from mosaic_ray.io.storage import Storage
from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.methods.mosaic.grouping import TILE_COUNTS
from mosaic_ray.methods.mosaic.strategies import STRATEGIES


def job(**options: Any) -> Job:
    return job_from({"output": "out", **options}, MosaicMethod)


def test_defaults() -> None:
    made = job()
    assert made.settings.model_dump() == {
        "epochs": 4,
        "seed": 0,
        "max_tokens": 2048,
        "view": "messages",
        "columns": {},
        "multi_turn": "pass",
        "overlong": "reject",
        "special_tokens": "escape",
        "task_records": 8192,
        "world_size": 1,
    }
    assert made.method.identity == {
        "name": "mosaic-it",
        "version": 2,
        "tiles": "uniform",
        "max_tiles": 10,
        "strategies": ["format", "permute", "maskout"],
    }
    assert made.places.input == (EMBEDDED,)
    assert (made.places.output, made.places.tokenizer, made.places.chat_template) == ("out", EMBEDDED, None)
    assert made.execution == Execution(engine="ray", ray_address=None, workers=Workers(), max_reject_share=0.1)


def test_further_views() -> None:
    assert job().further_views() == []
    views = job(also="tokenized, packed,tokenized", max_tokens=100).further_views()
    assert [view.name for view in views] == ["tokenized", "packed-100"]
    assert job(also=["packed"], sequence_length=4096).further_views() == [ViewSpec(view="packed", sequence_length=4096)]
    with pytest.raises(SettingsError, match=r"only the view packed has sequences. Add --also packed"):
        job(also="tokenized", sequence_length=4096).further_views()
    with pytest.raises(ValidationError, match="a sequence length belongs to the view packed, and to no other"):
        ViewSpec(view="tokenized", sequence_length=4096)


def test_every_option_has_one_place_and_a_description() -> None:
    models = models_of(MosaicMethod).values()
    names = [name for model in models for name in model.model_fields]
    assert len(names) == len(set(names))
    assert all(field.description for model in models for field in model.model_fields.values())


def test_options_as_a_yaml_file_gives_them() -> None:
    made = job(
        **{
            "input": ["s3://a/", "s3://b/*.parquet"],
            "tokenizer": "T",
            "chat-template": "none",
            "max-tokens": 900,
            "strategies": ["format", "maskout"],
            "max_tiles": 4,
            "columns": {"instruction": "frage", "response": "antwort"},
            "input-options": {"anon": True, "endpoint_url": "http://x"},
            "workers": 3,
            "max-reject-share": 0,
        }
    )
    assert made.places.input == ("s3://a/", "s3://b/*.parquet")
    assert made.places.input_options == {"anon": True, "endpoint_url": "http://x"}
    assert (made.settings.max_tokens, made.settings.columns["response"]) == (900, "antwort")
    assert made.method.identity["strategies"] == ["format", "maskout"]
    assert made.execution.workers == Workers(least=3, most=3)
    assert made.execution.max_reject_share == 0.0


def test_options_as_flags_give_them_mean_the_same() -> None:
    flags = job(
        input=("a",),
        tokenizer="T",
        columns="instruction=frage, response=antwort",
        input_options="anon=True,endpoint_url=http://x?a=b",
        strategies="maskout, format",
        workers="2:5",
    )
    options = {"anon": True, "endpoint_url": "http://x?a=b"}
    assert flags == job(
        input="a",
        tokenizer="T",
        columns={"instruction": "frage", "response": "antwort"},
        input_options=options,
        strategies=["format", "maskout", "format"],
        workers=Workers(least=2, most=5),
    )


class TestRefused:
    def test_unknown_options_are_all_named_with_the_known_ones(self) -> None:
        with pytest.raises(SettingsError, match=r"^unknown options foo, max_tokns\. Known are: .*max_tokens.*workers"):
            job(**{"max-tokns": 5, "foo": 1})
        with pytest.raises(SettingsError, match=r"^unknown option seeds\."):
            job(seeds=1)

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"epochs": 0}, "epochs = 0: input should be greater than or equal to 1"),
            ({"epochs": 1001}, "epochs = 1001: input should be less than or equal to 1000"),
            ({"epochs": "4"}, "epochs = '4': input should be a valid integer"),
            ({"epochs": True}, "epochs = True: input should be a valid integer"),
            ({"epochs": 2.5}, "epochs = 2.5: input should be a valid integer"),
            ({"seed": -1}, "seed = -1: input should be greater than or equal to 0"),
            ({"seed": 2**63}, "seed = 9223372036854775808: input should be less than or equal to 9223372036854775807"),
            ({"max_tokens": 0}, "max_tokens = 0: input should be greater than or equal to 1"),
            ({"max_tokens": 2**31}, "max_tokens = 2147483648: input should be less than or equal to 2147483647"),
            ({"task_records": 0}, "task_records = 0: input should be greater than or equal to 1"),
            (
                {"view": "alpace"},
                "view = 'alpace': input should be 'messages', 'prompt-completion', 'alpaca' or 'sharegpt'",
            ),
            ({"multi_turn": "last"}, "multi_turn = 'last': input should be 'pass', 'first' or 'reject'"),
            ({"overlong": "drop"}, "overlong = 'drop': input should be 'reject' or 'fail'"),
            ({"special_tokens": "keep"}, "special_tokens = 'keep': input should be 'escape', 'strip' or 'reject'"),
            ({"columns": "frage"}, "columns = 'frage': columns are not NAME=VALUE,NAME=VALUE"),
            ({"columns": {"instruction": 3}}, "columns.instruction = 3: input should be a valid string"),
            ({"tiles": "many"}, "tiles = 'many': input should be 'uniform', 'fix_max', 'max_length', 'exp'"),
            ({"max_tiles": 0}, "max_tiles = 0: input should be greater than or equal to 1"),
            ({"max_tiles": 1001}, "max_tiles = 1001: input should be less than or equal to 1000"),
            (
                {"strategies": "format,shuffle"},
                "strategies = 'shuffle': input should be 'primary', 'format', 'permute' or 'maskout'",
            ),
            ({"strategies": []}, "strategies = (): tuple should have at least 1 item"),
            ({"engine": "dask"}, "engine = 'dask': input should be 'ray' or 'in-process'"),
            ({"workers": "4:2"}, "workers = '4:2': '4:2' needs 1 <= MIN <= MAX"),
            ({"workers": "0"}, "workers = '0': '0' needs 1 <= MIN <= MAX"),
            ({"workers": "a:b"}, "workers = 'a:b': 'a:b' is not MIN:MAX, as in 1:8"),
            ({"max_reject_share": 1.5}, "max_reject_share = 1.5: input should be less than or equal to 1"),
            ({"max_reject_share": float("nan")}, "max_reject_share = nan: input should be"),
            ({"input": []}, "input = (): tuple should have at least 1 item"),
            ({"output": 7}, "output = 7: input should be a valid string"),
            ({"input_options": "anon"}, "input_options: storage options are not NAME=VALUE,NAME=VALUE"),
        ],
    )
    def test_a_value_that_cannot_be(self, options: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError) as refused:
            job(**options)
        assert str(refused.value).startswith(sentence)
        assert "\n" not in str(refused.value)

    def test_an_unknown_role_of_a_column(self) -> None:
        with pytest.raises(SettingsError, match=r"columns\.frage .* 'instruction', 'input', 'response', 'system' or"):
            job(columns="frage=x")

    def test_what_is_missing(self) -> None:
        with pytest.raises(SettingsError, match=r"^output: missing\. Give --output$"):
            job_from({}, MosaicMethod)
        with pytest.raises(SettingsError, match=r"^tokenizer: missing\. Give --tokenizer the tokenizer of the model"):
            job(input="s3://lake/sft")
        assert job(input="s3://lake/sft", tokenizer=EMBEDDED).places.tokenizer == EMBEDDED

    def test_all_that_is_wrong_is_said_at_once(self) -> None:
        with pytest.raises(SettingsError) as refused:
            job(epochs=0, tiles="x", workers="4:2", input="s3://lake/sft")
        assert len(str(refused.value).split("; ")) >= 4
        assert all(name in str(refused.value) for name in ("epochs = 0", "tiles = 'x'", "workers", "tokenizer"))

    @pytest.mark.parametrize("options", [{"secret": "s3cr3t"}, {"key": "s3cr3t"}, {"session_token": "s3cr3t"}])
    def test_credentials_stop_at_the_door_to_the_store(self, options: dict[str, str]) -> None:
        made = job(input_options=options, output_options=options)
        for storage_options, error in ((made.places.input_options, InputError), (options, StorageError)):
            with pytest.raises(SettingsError, match="environment or a profile") as refused:
                Storage.at("s3://bucket/x", storage_options, error=error)
            assert next(iter(options)) in str(refused.value)
            assert "s3cr3t" not in str(refused.value)


class TestIdentity:
    @given(st.permutations(STRATEGIES), st.integers(1, 4), st.booleans())
    def test_order_and_repetition_of_strategies_do_not_matter(self, names: list[str], n: int, as_text: bool) -> None:
        asked = [*names[:n], *names[:n]]
        method = MosaicMethod(strategies=",".join(asked) if as_text else asked)  # type: ignore[arg-type]
        canonical = MosaicMethod(strategies=tuple(s for s in STRATEGIES if s in asked))
        assert method == canonical
        assert fingerprint(dict(method.identity)) == fingerprint(dict(canonical.identity))

    @given(
        settings=st.fixed_dictionaries(
            {},
            optional={
                "epochs": st.integers(1, 1000),
                "seed": st.integers(0, 2**63 - 1),
                "max_tokens": st.integers(1, 2**31 - 1),
                "view": st.sampled_from(["messages", "prompt-completion", "alpaca"]),
                "columns": st.dictionaries(st.sampled_from(["instruction", "response", "input"]), st.text(min_size=1)),
                "multi_turn": st.sampled_from(["pass", "first", "reject"]),
                "overlong": st.sampled_from(["reject", "fail"]),
                "special_tokens": st.sampled_from(["escape", "strip", "reject"]),
                "task_records": st.integers(1, 10**6),
            },
        ),
        method=st.fixed_dictionaries(
            {},
            optional={
                "tiles": st.sampled_from(TILE_COUNTS),
                "max_tiles": st.integers(1, 1000),
                "strategies": st.lists(st.sampled_from(STRATEGIES), min_size=1),
            },
        ),
    )
    def test_identity_as_json_gives_the_job_back(self, settings: dict[str, Any], method: dict[str, Any]) -> None:
        made = job(**settings, **method)
        identity = {"settings": made.settings.model_dump(mode="json"), "method": dict(made.method.identity)}
        kept = json.loads(json.dumps(identity))
        kept["method"].pop("name")
        kept["method"].pop("version")
        assert job(**kept["settings"], **kept["method"]) == made

    def test_places_and_execution_survive_json_too(self) -> None:
        made = job(input=["a", "b"], tokenizer="T", workers="2:", output_options="anon=false")
        places = json.loads(made.places.model_dump_json())
        assert job(**{**places, "workers": str(made.execution.workers)}) == made

    def test_settings_are_frozen(self) -> None:
        for model, name in ((Settings(), "seed"), (MosaicMethod(), "tiles"), (Places(output="o"), "output")):
            with pytest.raises(ValidationError, match="frozen"):
                setattr(model, name, 1)


class TestWorkers:
    @pytest.mark.parametrize(
        ("text", "least", "most", "shown"),
        [("4", 4, 4, "4:4"), ("1:8", 1, 8, "1:8"), ("2:", 2, None, "2:"), (":4", 1, 4, "1:4"), (":", 1, None, "1:")],
    )
    def test_parse(self, text: str, least: int, most: int | None, shown: str) -> None:
        workers = Workers.parse(text)
        assert (workers.least, workers.most, str(workers)) == (least, most, shown)
        assert Workers.parse(shown) == workers

    @pytest.mark.parametrize("text", ["-1", "0:3", "3:2", "1:0", "one", "1:2:3", "1.5"])
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"is not MIN:MAX|needs 1 <= MIN <= MAX"):
            Workers.parse(text)


NAME = st.text(st.characters(exclude_characters=",=", exclude_categories=["Cs"])).map(str.strip).filter(bool)
VALUE = st.text(st.characters(exclude_characters=",", exclude_categories=["Cs"])).map(str.strip).filter(bool)


@given(st.dictionaries(NAME, VALUE))
def test_pairs_read_back(pairs: dict[str, str]) -> None:
    assert parse_pairs(",".join(f" {key} = {value} " for key, value in pairs.items()), "pairs") == pairs


@pytest.mark.parametrize("text", ["a", "a=", "=b", "a=b,c", "a=b,=c"])
def test_pairs_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"pairs are not NAME=VALUE,NAME=VALUE"):
        parse_pairs(text, "pairs")
