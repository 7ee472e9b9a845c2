"""Canonical JSON and digests: equal for equal values, and frozen."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.fingerprint import canonical_json, fingerprint, fold

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_canonical_json_is_sorted_tight_and_utf8() -> None:
    assert canonical_json({"b": [1, 2.5, None, True], "a": {"ö": "é"}}) == '{"a":{"ö":"é"},"b":[1,2.5,null,true]}'


@given(JSON)
def test_canonical_json_reads_back_as_the_value(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), JSON, min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    turned = dict(reversed(value.items()))
    assert fingerprint(turned) == fingerprint(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_what_json_has_no_word_for_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_different_values_have_different_digests() -> None:
    values = [None, 0, "0", "", [], {}, [0], [[0]], {"a": 0}, {"a": "0"}, ["a", "b"], ["ab"], False]
    assert len({fingerprint(value) for value in values}) == len(values)


def test_digests_are_frozen() -> None:
    assert fingerprint({"seed": 0, "names": ["a", "é"]}) == "v1:a1b74d50ef469a339d3e3003742bb285"
    assert fold(["v1:00", "v1:11"]) == "v1:7b6d117e7c42d4613122c948baf00dcb"
    assert fold([]) == "v1:cae66941d9efbd404e4d88758ea67670"


def test_fold_depends_on_order_and_on_where_one_ends() -> None:
    assert fold(["ab", "c"]) != fold(["a", "bc"])
    assert fold(["a", "b"]) != fold(["b", "a"])
    assert fold(iter(["a", "b"])) == fold(["a", "b"])
