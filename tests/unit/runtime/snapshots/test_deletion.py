"""Deleting a data set: all that a run wrote and nothing else, and at no moment half a data set."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from werkzeug import Request, Response

from mosaic_ray.errors import ConcurrentRunError, DriftError, SettingsError, StorageError
from mosaic_ray.io.storage import Storage
from mosaic_ray.runtime.lease import hold
from mosaic_ray.runtime.snapshots.deletion import delete, look_over
from mosaic_ray.runtime.snapshots.listing import newest_finished
from tests.unit.runtime.snapshots.conftest import BUCKET, Door, put_data_set, refusal


def paths(place: Storage) -> set[str]:
    return {path for path, _ in place.listing()}


def test_all_that_a_run_wrote_goes(root: Storage) -> None:
    out = root.under("out")
    written = put_data_set(out, whole=True)
    put_data_set(root.under("beside"))
    before = paths(root.under("beside"))
    out.publish("_mosaic/staged/0123.jsonl.zst", b"1234")
    out.publish("_mosaic/what a later version keeps", b"")
    doomed = look_over(out)
    assert (doomed.files, doomed.left, doomed.named) == (len(written) + 2, 0, [])
    assert doomed.size == sum(info.size for _, info in out.listing())
    delete(out)
    assert paths(out) == set()
    assert root.protocol == "memory" or root.folders() == ["beside"]  # memory keeps the names of empty directories
    assert paths(root.under("beside")) == before


def test_what_no_run_wrote_is_left_and_named(root: Storage) -> None:
    out = root.under("out")
    put_data_set(out, whole=True)
    strange = {
        "notes.txt", "data/extra.parquet", "data/train-1-of-2.parquet", "data/more/train-00000-of-00002.parquet",
        "rejects/mine.csv", "views/mine/data/train-00000-of-00002.parquet", "views/packed-64/mine", "manifest.json.bak",
        "2026-11-20/manifest.json",
    }  # fmt: skip
    for path in strange:
        out.publish(path, b"mine")
    doomed = look_over(out)
    assert (doomed.left, set(doomed.named)) == (len(strange), strange)
    delete(out)
    assert paths(out) == strange


def test_what_is_left_of_a_long_list_is_counted(tmp_path: Path) -> None:
    out = Storage.at(str(tmp_path), error=StorageError)
    put_data_set(out)
    for number in range(25):
        out.publish(f"mine {number}", b"")
    doomed = look_over(out)
    assert (doomed.left, len(doomed.named)) == (25, 10)


def test_unfinished_files_go_too(tmp_path: Path) -> None:
    out = Storage.at(str(tmp_path / "out"), error=StorageError)
    put_data_set(out, finished=None, whole=True)
    for folder in ("data", "views/packed-64/data", "."):
        (tmp_path / "out" / folder / ".a name.4711.0123abcd.tmp").write_bytes(b"half")
    delete(out)
    assert not (tmp_path / "out").exists()


class TestRefused:
    def test_a_directory_without_a_run(self, root: Storage) -> None:
        root.publish("mine/data/train-00000-of-00001.parquet", b"")
        root.publish("mine/manifest.json", b"{}")
        with pytest.raises(DriftError, match=r"/mine: no _mosaic/settings\.json, so this is no data set that a run"):
            look_over(root.under("mine"))
        with pytest.raises(StorageError, match="/none: there is no such file or folder"):
            look_over(root.under("none"))

    def test_a_view(self, root: Storage) -> None:
        put_data_set(root.under("out"), whole=True)
        with pytest.raises(DriftError, match=r"it is a view of one\. Nothing was deleted"):
            look_over(root.under("out/views/packed-64"))

    def test_a_run_at_work(self, root: Storage) -> None:
        out = root.under("out")
        put_data_set(out, finished=None)
        with hold(out):
            before = paths(out)
            with pytest.raises(
                ConcurrentRunError, match=r"/out: a run \(process \d+ on .*\) is at work on it. Nothing"
            ):
                look_over(out, force=True)
            assert paths(out) == before

    def test_one_that_others_go_on_from(self, root: Storage) -> None:
        put_data_set(root.under("1"))
        put_data_set(root.under("2"), finished="2026-11-21T01:00:00+00:00", run="v1:two", since="v1:one")
        put_data_set(root.under("tonight"), finished=None, run="v1:three", since="v1:two")
        with pytest.raises(SettingsError, match=r"/1: data sets beside it go on from it \(2\), .*; or give --force"):
            look_over(root.under("1"))
        with pytest.raises(SettingsError, match=r"/2: data sets beside it go on from it \(tonight\)"):
            look_over(root.under("2"))
        assert look_over(root.under("2"), force=True).files == 3
        assert look_over(root.under("tonight")).files == 2


class Refuses:
    """Turns away one deleting request, counted from 0."""

    def __init__(self, which: int) -> None:
        self.left = which
        self.came = False

    def __call__(self, request: Request) -> Response | None:
        if request.method == "DELETE" or (request.method == "POST" and "delete" in request.args):
            self.left -= 1
            if self.left == -1:
                self.came = True
                return refusal("AccessDenied", 403)
        return None


def test_wherever_it_is_cut_off_there_is_no_half_data_set_and_it_is_finished_later(s3: Door) -> None:
    root = Storage.at(f"s3://{BUCKET}/lake", error=StorageError)
    out = root.under("out")
    cut_off = 0
    while True:
        written = set(put_data_set(out, whole=True))
        s3.answer = refusing = Refuses(cut_off)
        try:
            delete(out)
        except StorageError as error:
            assert "the credentials in use do not permit this" in str(error)  # noqa: PT017
        else:
            break
        s3.answer = lambda _: None
        left = paths(out) & written
        assert left == written if cut_off == 0 else "manifest.json" not in left
        assert (newest_finished(root) is None) == (cut_off > 0)
        views = {path for path in written if path.startswith("views/")}
        if len(left & views) < len(views):
            assert not any(path.endswith("manifest.json") for path in left)
        assert "_mosaic/settings.json" in left
        look_over(out)
        delete(out)
        assert paths(out) == set()
        cut_off += 1
    assert not refusing.came
    assert cut_off == 9, (
        "the data set's manifest, those of its views, three folders, pages, what is kept, lease, settings"
    )
    assert paths(out) == set()


def test_s3_is_asked_to_delete_many_at_once(s3: Door) -> None:
    out = Storage.at(f"s3://{BUCKET}/out", error=StorageError)
    put_data_set(out, finished=None)
    for number in range(40):
        out.publish(f"_mosaic/receipts/task-{number:05d}.json", b"")
    s3.asked.clear()
    delete(out)
    deleting = [asked for asked in s3.asked if asked.startswith("DELETE") or "?delete" in asked]
    assert len(deleting) <= 9
    assert "PUT /lake/out/_mosaic/leases/00001.json" in s3.asked[: s3.asked.index(deleting[0])]
    assert paths(out) == set()


@pytest.mark.parametrize(
    ("code", "status"), [("NotImplemented", 501), ("MethodNotAllowed", 405), ("MissingContentMD5", 400)]
)
def test_a_store_that_cannot_delete_many_at_once_is_asked_for_each(s3: Door, code: str, status: int) -> None:
    s3.answer = lambda request: refusal(code, status) if request.method == "POST" and "delete" in request.args else None
    out = Storage.at(f"s3://{BUCKET}/out", error=StorageError)
    put_data_set(out, whole=True)
    delete(out)
    assert paths(out) == set()


def test_a_file_that_a_bulk_delete_did_not_take_is_named(s3: Door) -> None:
    def answer(request: Request) -> Response | None:
        if request.method == "DELETE" and request.path.endswith("/data/train-00001-of-00002.parquet"):
            return refusal("AccessDenied", 403)
        if request.method == "POST" and "delete" in request.args and b"data/train-00001" in request.get_data():
            keys = re.findall(r"<Key>(.*?)</Key>", request.get_data().decode())
            errors = "".join(f"<Error><Key>{key}</Key><Code>AccessDenied</Code></Error>" for key in keys)
            return Response(f"<DeleteResult>{errors}</DeleteResult>", content_type="application/xml")
        return None

    out = Storage.at(f"s3://{BUCKET}/out", error=StorageError)
    put_data_set(out, whole=True)
    s3.answer = answer
    with pytest.raises(StorageError, match="the credentials in use do not permit this"):
        delete(out)
    left = {path for path in paths(out) if path.startswith("data/")}
    assert left == {"data/train-00001-of-00002.parquet"}
