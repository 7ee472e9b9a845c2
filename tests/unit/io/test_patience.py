"""Requests that are made again: which, how long, and what is counted."""

from __future__ import annotations

import threading
import time

import botocore.exceptions as boto
import pytest
from fsspec.exceptions import FSTimeoutError

from mosaic_ray.io import patience as module
from mosaic_ray.io.failures import ChangedError, TruncatedError, cause_of
from mosaic_ray.io.patience import FIRST_CONTACT, Patience, retried, retries_counted


def refusal(code: str, status: int = 0) -> Exception:
    """As s3fs hands it on: an OSError whose cause is the store's answer. status: of HTTP, where there is one."""
    error = OSError("as s3fs has it")
    told = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error.__cause__ = boto.ClientError(told, "GetObject")  # type: ignore[arg-type]
    return error


class Flaky:
    """Fails some times and then answers."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        (refusal("SlowDown"), "throttled"),
        (refusal("503"), "throttled"),
        (refusal("InternalError"), "server error"),
        (refusal("", 503), "throttled"),
        (refusal("", 429), "throttled"),
        (refusal("522"), "server error"),
        (refusal("NotImplemented", 501), None),
        (refusal("", 403), None),
        (refusal("ConditionalRequestConflict"), "server error"),
        (refusal("ExpiredToken"), "credentials"),
        (refusal("BadDigest"), "garbled"),
        (refusal("RequestTimeout"), "timeout"),
        (boto.ReadTimeoutError(endpoint_url="x"), "timeout"),
        (boto.ConnectTimeoutError(endpoint_url="x"), "timeout"),
        (boto.EndpointConnectionError(endpoint_url="x"), "connection"),
        (boto.ConnectionClosedError(endpoint_url="x"), "connection"),
        (FSTimeoutError(), "timeout"),
        (TimeoutError(), "timeout"),
        (ConnectionResetError(), "connection"),
        (TruncatedError(), "truncated"),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), "truncated"),
        (refusal("AccessDenied"), None),
        (refusal("NoSuchKey"), None),
        (refusal("PreconditionFailed"), None),
        (refusal("InvalidAccessKeyId"), None),
        (boto.NoCredentialsError(), None),
        (FileNotFoundError(), None),
        (PermissionError(), None),
        (ChangedError(), None),
        (ValueError(), None),
    ],
)
def test_what_may_pass(failure: Exception, cause: str | None) -> None:
    assert cause_of(failure) == cause


def test_it_is_asked_again_until_it_answers_and_each_time_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)
    flaky = Flaky(refusal("SlowDown"), refusal("SlowDown"), ConnectionResetError())
    with retries_counted() as retries:
        assert Patience(30).persist("s3://b/k", flaky) == "answer"
    assert flaky.asked == 4
    assert retries == {"throttled": 2, "connection": 1}


def test_what_will_not_pass_is_asked_once() -> None:
    flaky = Flaky(refusal("AccessDenied"), refusal("AccessDenied"))
    with retries_counted() as retries, pytest.raises(OSError, match="as s3fs has it"):
        Patience(30).persist("s3://b/k", flaky)
    assert flaky.asked == 1
    assert not retries


def test_credentials_that_were_there_are_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)
    patience = Patience(30)
    with pytest.raises(boto.NoCredentialsError):
        patience.persist("s3://b/k", Flaky(boto.NoCredentialsError()))
    patience.answered = True
    with retries_counted() as retries:
        assert patience.persist("s3://b/k", Flaky(boto.NoCredentialsError())) == "answer"
    assert retries == {"credentials": 1}


def test_the_ceiling_ends_it_with_the_last_failure() -> None:
    started = time.monotonic()
    flaky = Flaky(*[TimeoutError(n) for n in range(1000)])
    patience = Patience(1.0, answered=True)
    with retries_counted() as retries, pytest.raises(TimeoutError) as last:
        patience.persist("s3://b/k", flaky)
    assert last.value.args == (flaky.asked - 1,)
    assert retries == {"timeout": flaky.asked - 1}
    assert 2 <= flaky.asked < 100, "it waits between tries"
    assert time.monotonic() - started < 10


def test_a_store_that_never_answered_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FIRST_CONTACT < 10
    monkeypatch.setattr(module, "FIRST_CONTACT", 0.5)
    patience = Patience(3600)
    with pytest.raises(ConnectionRefusedError):
        patience.persist("s3://b/k", Flaky(*[ConnectionRefusedError()] * 1000))
    assert not patience.answered
    assert patience.persist("s3://b/k", Flaky()) == "answer"
    assert patience.answered


def test_pauses_grow_are_bounded_and_differ() -> None:
    attempts = Patience(1e9, answered=True).attempts("s3://b/k")
    pauses = [attempts.pause(TimeoutError()) or 0.0 for _ in range(300)]
    assert max(pauses) <= module.LONGEST_PAUSE
    assert max(pauses[:2]) <= 2 * module.FIRST_PAUSE
    assert 0.35 * module.LONGEST_PAUSE < sum(pauses[20:]) / 280 < 0.65 * module.LONGEST_PAUSE
    assert len(set(pauses)) == 300


def test_a_request_may_take_no_longer_than_its_share_of_the_ceiling() -> None:
    assert [Patience(seconds).request_seconds for seconds in (3600, 120, 20, 1)] == [30, 30, 5, 1]


def test_the_log_says_so_when_it_lasts(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "TELL_AFTER", 0.01)
    with pytest.raises(TimeoutError):
        Patience(1.0, answered=True).persist("s3://b/k", Flaky(*[TimeoutError()] * 1000))
    assert "s3://b/k: the store fails (timeout); tried again for" in caplog.text


def test_collectors_nest_and_take_counts_of_any_thread() -> None:
    with retries_counted() as outer:
        retried("a")
        with retries_counted() as inner:
            thread = threading.Thread(target=retried, args=("b", 3))
            thread.start()
            thread.join()
        retried("a")
    assert (outer, inner) == ({"a": 2}, {"b": 3})
