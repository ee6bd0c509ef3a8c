"""`ray job submit` as in docs/cluster.md: a head with dashboard and token, the root on S3, and a laptop
without credentials for S3.

The submitted project is a copy with a distinct version. Every receipt names the version of the process that
made it, which shows that the cluster ran the job's copy, and not the installed dgflow.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
from botocore.session import Session
from listening import LOOPBACK, family, listening
from seaweed import _free_ports, seaweed

PROJECT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
CARRIED = "0.0.0+carried"
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("AWS_", "DGFLOW_", "RAY_", "PYTHON"))
}
# The job's `python` is that of the cluster; idle threads would only compete for the two cores. Ray takes
# 127.0.0.1 for a host's address only if it assumes that hosts cannot form clusters; else it listens on all
# addresses.
CLEAN |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
CLEAN |= {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{CLEAN['PATH']}",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def end(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


class Laptop:
    """The host that submits jobs: with its own home, no credentials, and a token unless stated otherwise."""

    def __init__(self, home: Path, project: Path) -> None:
        home.mkdir(parents=True)
        self.home, self.project = home, project
        self.environment = {**CLEAN, "HOME": str(home), "RAY_AUTH_MODE": "token"}

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RAY, *arguments],
            cwd=self.project,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=570,
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Returns the cluster, the S3 server, the laptop with the project, and the address of the dashboard."""
    folder = tmp_path_factory.mktemp("submit")
    project = folder / "project"
    for part in ("dgflow", "workflows"):
        shutil.copytree(PROJECT / part, project / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in (".rayignore", ".gitignore", "pyproject.toml", "constraints.txt"):
        shutil.copy(PROJECT / part, project / part)
    with (project / "dgflow" / "_version.py").open("a") as module:
        module.write(f'\n__version__ = "{CARRIED}"\n')
    shutil.copy(tiny.__file__, project / "workflows" / "tiny.py")
    with (project / "workflows" / "tiny.py").open("a") as module:
        module.write('\n\nif __name__ == "__main__":\n    import dgflow\n\n    dgflow.main(workflow)\n')
    tiny.write_images(project / "images.npz")
    laptop = Laptop(folder / "laptop", project)
    assert laptop.ray("get-auth-token", "--generate").returncode == 0
    token = laptop.home / ".ray" / "auth_token"
    gcs, dashboard, agent, runtime_env, metrics, client = _free_ports(6)
    # The path of a Unix socket has at most 107 characters, which pytest's folders nearly reach.
    temporary = Path(tempfile.mkdtemp(prefix="dgs-", dir="/tmp"))
    with seaweed(folder) as s3:
        root = s3.pop("BUCKET_URL")
        home = folder / "head"
        home.mkdir()
        environment = {
            **CLEAN,
            **s3,
            "HOME": str(home),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
        }
        command = [
            RAY,
            "start",
            "--head",
            "--block",
            "--node-ip-address=127.0.0.1",
            f"--port={gcs}",
            "--dashboard-host=127.0.0.1",
        ]
        command += [
            f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}",
            f"--runtime-env-agent-port={runtime_env}",
        ]
        command += [
            f"--metrics-export-port={metrics}",
            f"--ray-client-server-port={client}",
            f"--temp-dir={temporary}",
            "--num-cpus=2",
        ]
        with (folder / "head.log").open("wb") as log:
            head = subprocess.Popen(
                [*command, "--object-store-memory=200000000"],
                cwd=home,
                env={**environment, "DGFLOW_ROOT": f"{root}/from-the-environment"},
                stdout=log,
                stderr=log,
            )
        found = SimpleNamespace(
            head=head, s3=s3, root=root, laptop=laptop, folder=folder, token=token.read_text().strip()
        )
        found.address = f"http://127.0.0.1:{dashboard}"
        try:
            _wait_until_ready(found)
            yield found
        finally:
            end(family(head.pid))
            head.wait()
            shutil.rmtree(temporary, ignore_errors=True)


def _wait_until_ready(site: SimpleNamespace, seconds: float = 120) -> None:
    """Waits until the dashboard answers and can list the jobs: then it also accepts one."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if asked(site, site.token) == 200:
                return
        except OSError:
            pass
        assert site.head.poll() is None and time.monotonic() < deadline, (
            site.folder / "head.log"
        ).read_text()[-3000:]
        time.sleep(0.2)


def asked(site: SimpleNamespace, token: str | None) -> int:
    """Returns the HTTP status of a request for the list of jobs."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"{site.address}/api/jobs/", headers=headers), timeout=10
        ) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def submit(
    site: SimpleNamespace, name: str, *command: str, laptop: Laptop | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the command of docs/cluster.md, with a name for the job; returns its log when the job has
    ended."""
    arguments = ["--address", site.address, "--submission-id", name, "--working-dir", "."]
    return (laptop or site.laptop).ray("job", "submit", *arguments, "--", "python", *command)


def told(site: SimpleNamespace, what: str, name: str) -> str:
    found = site.laptop.ray("job", what, "--address", site.address, name)
    return found.stdout + found.stderr


def objects(site: SimpleNamespace, prefix: str) -> dict[str, bytes]:
    """Returns everything in the root that is JSON or a page."""
    s3 = Session().create_client(
        "s3",
        endpoint_url=site.s3["AWS_ENDPOINT_URL"],
        region_name=site.s3["AWS_DEFAULT_REGION"],
        aws_access_key_id=site.s3["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=site.s3["AWS_SECRET_ACCESS_KEY"],
    )
    bucket = site.root.removeprefix("s3://")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    keys = [
        item["Key"]
        for page in pages
        for item in page.get("Contents", [])
        if item["Key"].endswith((".json", ".html"))
    ]
    return {
        key.removeprefix(f"{prefix}/"): s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys
    }


def made_by(receipts: dict[str, bytes]) -> set[str]:
    """Returns the versions of dgflow that the receipts name."""
    found = set()
    for key, data in receipts.items():
        if "/shards/" in key or "/epochs/" in key or "/result/" in key or "/results/" in key:
            found |= {document["dgflow"] for document in _documents(json.loads(data)) if "dgflow" in document}
    return found


def _documents(value: object) -> Iterator[dict]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _documents(each)


def test_the_smoke_run_of_a_paper_system_goes_from_submission_to_its_report(site: SimpleNamespace) -> None:
    run = submit(site, "ffhq", "workflows/ffhq64_edm.py", "run", "--smoke", "--root", f"{site.root}/ffhq")
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert "SUCCEEDED" in told(site, "status", "ffhq").upper()
    log = told(site, "logs", "ffhq")
    assert "smoke run: toy networks with random weights" in log
    assert "working" in log and ": done, " in log  # the progress of each step
    assert "EDM-G++" in log and f"report: {site.root}/ffhq/report.html" in log
    found = objects(site, "ffhq")
    assert b"EDM-G++" in found["report.html"]
    assert made_by(found) == {CARRIED}
    assert not (site.laptop.project / "runs").exists()


def test_a_job_without_a_root_takes_the_clusters(site: SimpleNamespace) -> None:
    assert not objects(site, "from-the-environment")
    run = submit(site, "plan", "workflows/tiny.py", "plan", "--source", "images.npz")
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert f"nothing at this root yet: {site.root}/from-the-environment" in told(site, "logs", "plan")
    assert not objects(site, "from-the-environment")  # a plan writes nothing


def test_nothing_listens_beyond_loopback(site: SimpleNamespace) -> None:
    addresses = listening(family(site.head.pid))
    assert addresses and addresses <= LOOPBACK


@pytest.mark.parametrize(
    ("token", "status", "message"),
    [
        (None, 401, "Missing authentication token"),
        ("0" * 64, 403, "the authentication token is invalid or incorrect"),
    ],
    ids=["none", "wrong"],
)
def test_who_has_not_the_token_is_refused(
    site: SimpleNamespace, token: str | None, status: int, message: str, tmp_path: Path
) -> None:
    assert asked(site, token) == status and asked(site, site.token) == 200
    stranger = Laptop(tmp_path / "stranger", site.laptop.project)
    if token is None:
        del stranger.environment["RAY_AUTH_MODE"]
    else:
        stranger.environment["RAY_AUTH_TOKEN"] = token
    name = f"refused-{status}"
    run = submit(site, name, "workflows/tiny.py", "plan", laptop=stranger)
    assert run.returncode != 0 and message in run.stdout + run.stderr, run.stderr[-3000:]
    assert name not in site.laptop.ray("job", "list", "--address", site.address).stdout


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "no-bucket",
            ("run", "--source", "images.npz", "--root", "s3://no-such-bucket/x"),
            "there is no bucket 'no-such-bucket'",
        ),
        ("bad-option", ("run", "--samples", "many"), "Invalid value for '--samples'"),
    ],
)
def test_a_run_that_fails_is_a_job_that_failed_with_the_error_in_its_log(
    site: SimpleNamespace, name: str, arguments: tuple[str, ...], message: str
) -> None:
    run = submit(site, name, "workflows/tiny.py", *arguments)
    assert run.returncode != 0
    assert "FAILED" in told(site, "status", name).upper()
    assert message in " ".join(told(site, "logs", name).split())
