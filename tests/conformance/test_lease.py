"""One run at a time on an output: whoever comes second is told, and whoever was believed dead finds out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mosaic_ray.errors import ConcurrentRunError, InputError, StorageError
from mosaic_ray.io.storage import Storage
from mosaic_ray.runtime import lease as module
from mosaic_ray.runtime.lease import LEASES, Lease, hold


@pytest.fixture(params=["file", "memory", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(module, "TRUST_SECONDS", 2.0)
    if request.param == "file":
        return Storage.at(str(tmp_path / "out"), error=StorageError)
    if request.param == "memory":
        return Storage.at(f"memory://{uuid.uuid4().hex}/out", error=StorageError)
    return Storage.at(f"s3://{request.getfixturevalue('s3_bucket')}/out", error=StorageError)


def said(output: Storage, number: int) -> dict[str, object]:
    return dict(json.loads(output.read(f"{LEASES}/{number:05d}.json")))


def stranger(output: Storage, number: int = 1, **more: object) -> None:
    """A lease of a run on another machine, which is not heard of again."""
    lease = {"host": "elsewhere", "process": 7, "orderly": True, **more}
    output.publish(f"{LEASES}/{number:05d}.json", json.dumps(lease).encode())


def test_runs_follow_each_other_and_say_that_they_ended(output: Storage) -> None:
    for number in (1, 2, 3):
        with hold(output) as lease:
            assert (lease.number, lease.orderly) == (number, True)
            assert not said(output, number)["ended"]
            lease.confirm()
        assert said(output, number)["ended"]


def test_a_run_that_fails_has_ended_too(output: Storage) -> None:
    with pytest.raises(InputError, match=r"^no such input$"), hold(output):
        raise InputError("no such input")
    assert said(output, 1)["ended"]


def test_a_second_run_is_told_as_soon_as_the_first_is_heard_of(output: Storage) -> None:
    with hold(output) as lease:
        started = time.monotonic()
        words = (
            rf"another run \(process {os.getpid()} on .*\) is at work on it. Let it finish, or give another --output"
        )
        with pytest.raises(ConcurrentRunError, match=words) as refused, hold(output):
            raise AssertionError("two at once")
        assert refused.value.exit_code == 8
        assert time.monotonic() - started < module.TRUST_SECONDS
        lease.confirm()
    with hold(output) as lease:
        assert lease.number == 2


def test_of_many_that_begin_at_once_one_goes_on(output: Storage) -> None:
    ready = threading.Barrier(6)
    over = threading.Event()

    def begin(_: int) -> bool:
        ready.wait()
        try:
            with hold(output):
                over.wait(20)
                return True
        except ConcurrentRunError:
            return False

    with ThreadPoolExecutor(6) as pool:
        begun = [pool.submit(begin, n) for n in range(6)]
        deadline = time.monotonic() + 20
        while sum(one.done() for one in begun) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        over.set()
        assert sorted(one.result() for one in begun) == [False] * 5 + [True]


def test_a_run_that_is_not_heard_of_is_followed_and_not_taken_for_ended(output: Storage) -> None:
    stranger(output)
    started = time.monotonic()
    with hold(output) as lease:
        assert time.monotonic() - started >= module.TRUST_SECONDS
        assert (lease.number, lease.orderly) == (2, False)
    with hold(output) as lease:
        assert (lease.number, lease.orderly) == (3, False), "the first may still have workers"


def test_a_run_that_ends_while_it_is_watched_is_followed(output: Storage) -> None:
    stranger(output)
    threading.Timer(0.5, stranger, (output,), {"ended": True}).start()
    with hold(output) as lease:
        assert (lease.number, lease.orderly) == (2, True)


def test_a_dead_process_of_this_machine_is_followed_at_once(output: Storage) -> None:
    code = "import json; from mosaic_ray.runtime.lease import _self; print(json.dumps(_self()))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    dead = json.loads(told.stdout)
    stranger(output, **dead)
    started = time.monotonic()
    with hold(output) as lease:
        assert time.monotonic() - started < module.TRUST_SECONDS
        assert (lease.number, lease.orderly) == (2, False)
    # The number of a process is given again: what tells is when it began.
    stranger(output, 3, **{**dead, "process": os.getpid()})
    with hold(output) as lease:
        assert (lease.number, lease.orderly) == (4, False)
    # The same number in another container is another process.
    stranger(output, 5, **{**dead, "container": "pid:[1]"})
    started = time.monotonic()
    with hold(output) as lease:
        assert time.monotonic() - started >= module.TRUST_SECONDS


def test_one_that_was_believed_dead_finds_out(output: Storage) -> None:
    with hold(output) as lease:
        stranger(output, 2)
        words = r"another run \(process 7 on elsewhere\) has taken the place of this one"
        with pytest.raises(ConcurrentRunError, match=words):
            lease.confirm()
        deadline = time.monotonic() + 10
        while not lease.lost:
            assert time.monotonic() < deadline, "the lease is not looked after"
            time.sleep(0.05)
        with pytest.raises(ConcurrentRunError, match=words):
            lease.check()


def test_two_that_a_store_took_for_one_are_told_apart(output: Storage) -> None:
    """Where it ignored the condition of both, and each saw its own lease at first."""
    with hold(output) as lease:
        stranger(output, 1, nonce="another")
        with pytest.raises(ConcurrentRunError, match=r"another run \(process 7 on elsewhere\) is at work on it"):
            lease.confirm()
        deadline = time.monotonic() + 10
        while not lease.lost:
            assert time.monotonic() < deadline, "the lease is not looked after"
            time.sleep(0.05)
    assert said(output, 1)["nonce"] == "another"


def test_what_fails_because_another_took_over_says_so(output: Storage) -> None:
    def run() -> None:
        with hold(output):
            stranger(output, 2)
            raise InputError("the copy is gone")

    with pytest.raises(ConcurrentRunError, match="has taken the place") as failed:
        run()
    assert str(failed.value.__cause__) == "the copy is gone"


def test_a_damaged_lease_is_of_nobody_known(output: Storage) -> None:
    output.publish(f"{LEASES}/00001.json", b'{"host": "else')
    with hold(output) as lease:
        assert (lease.number, lease.orderly) == (2, False)


def test_a_listing_that_is_stale_does_no_harm(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        stranger(output, number, ended=True)
    monkeypatch.setattr(Storage, "listing", lambda *_: iter(()))
    with hold(output) as lease:
        assert lease.number == 3


def test_checking_asks_nothing_as_long_as_all_is_well(tmp_path: Path) -> None:
    lease = Lease(Storage.at(str(tmp_path / "gone"), error=StorageError), 1, orderly=True)
    lease.check()
