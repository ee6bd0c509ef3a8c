"""cluster.yaml, docs/kuberay.yaml, docs/skypilot.yaml, the Dockerfile and .rayignore, held against the
schemas of Ray, EC2, Kubernetes and SkyPilot and a linter, without a network. docs/slurm.sh is run by
cluster/test_slurm.py.

KubeRay's own schema is in no package of PyPI or npm, so what is outside of the pods is checked by
`RayCluster` below, strict and with the fields that its reference documents (KubeRay 1.6), and by Ray's own
autoscaler, which reads the manifest as it would in the cluster.
"""

import json
import os
import re
import subprocess
import sys
import time
import tomllib
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import jsonschema
import kubernetes_validate
import pytest
import yaml
from botocore.session import Session
from botocore.validate import ParamValidator
from pydantic import BaseModel, ConfigDict, Field
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.kuberay import autoscaling_config
from ray.autoscaler._private.util import prepare_config, validate_config

PROJECT = Path(__file__).resolve().parents[1]
CLUSTER, KUBERAY = PROJECT / "cluster.yaml", PROJECT / "docs" / "kuberay.yaml"
SKYPILOT = PROJECT / "docs" / "skypilot.yaml"
FILLED_IN = {
    "REGION": "eu-central-1",
    "INSTANCE_PROFILE_ARN": "arn:aws:iam::111122223333:instance-profile/dgflow",
    "ROLE_ARN": "arn:aws:iam::111122223333:role/dgflow",
    "s3://BUCKET/PREFIX": "s3://a-bucket/dgflow",
    "IMAGE": "registry.example/dgflow@sha256:" + 64 * "0",
}
PINS = dict(
    line.split("==") for line in (PROJECT / "constraints.txt").read_text().splitlines() if "==" in line
)


def filled_in(file: Path) -> str:
    """The file with examples in its marked fields, which must be three."""
    lines = []
    for line in file.read_text().splitlines():
        if "# FILL IN" in line:
            example = next(
                name for name in FILLED_IN if re.search(rf"\b{re.escape(name)}\b", line.partition("#")[0])
            )
            line = line.replace(example, FILLED_IN[example], 1)
        lines.append(line)
    return "\n".join(lines)


def cluster() -> dict[str, Any]:
    """cluster.yaml as Ray reads it: with its defaults."""
    return prepare_config(yaml.safe_load(filled_in(CLUSTER)))


def manifests() -> dict[str, Any]:
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(filled_in(KUBERAY))}


@pytest.mark.parametrize("file", [CLUSTER, KUBERAY], ids=lambda file: file.name)
def test_three_fields_are_marked_and_nothing_else_is_to_be_filled_in(file: Path) -> None:
    assert re.findall(r"# FILL IN (\d)/3: ", file.read_text()) == ["1", "2", "3"]
    left = {word for example in FILLED_IN for word in re.findall(r"[A-Z_]+", example)} - {"s"}
    values = yaml.safe_dump_all(yaml.safe_load_all(filled_in(file)))
    assert not left & set(re.findall(r"[A-Z_]+", values))


@pytest.mark.parametrize("file", [CLUSTER, KUBERAY], ids=lambda file: file.name)
def test_no_key_is_written_there(file: Path) -> None:
    text = file.read_text()
    assert not re.search(
        r"AKIA|ASIA|BEGIN [A-Z ]*PRIVATE KEY|(?i:secret_access_key|password)|RAY_AUTH_TOKEN\b", text
    )
    assert not re.search(r"\b[0-9a-f]{32,}\b", text)


def test_ray_accepts_cluster_yaml() -> None:
    validate_config(cluster())


def test_ec2_knows_every_field_of_the_hosts() -> None:
    shape = Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, kind in cluster()["available_node_types"].items():
        report = ParamValidator().validate({**kind["node_config"], "MinCount": 1, "MaxCount": 1}, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"


def test_workers_are_spot_hosts_down_to_none_and_the_head_offers_nothing() -> None:
    found = cluster()
    head = found["available_node_types"].pop(found["head_node_type"])
    assert head["resources"] == {"CPU": 0, "GPU": 0} and "InstanceMarketOptions" not in head["node_config"]
    assert set(found["available_node_types"]) == {"gpu", "cpu"}
    for kind in found["available_node_types"].values():
        assert kind["min_workers"] == 0 < kind["max_workers"]
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert kind["node_config"]["InstanceInitiatedShutdownBehavior"] == "terminate"
        assert kind["node_config"]["UserData"].startswith("#!/bin/sh\n")
    assert "UserData" not in head["node_config"]
    assert found["max_workers"] == sum(kind["max_workers"] for kind in found["available_node_types"].values())
    assert found["provider"]["cache_stopped_nodes"] is False


def test_hosts_have_a_role_and_guard_its_credentials() -> None:
    for kind in cluster()["available_node_types"].values():
        assert kind["node_config"]["IamInstanceProfile"] == {"Arn": FILLED_IN["INSTANCE_PROFILE_ARN"]}
        assert kind["node_config"]["MetadataOptions"] == {
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
        }
        assert all(disk["Ebs"]["Encrypted"] for disk in kind["node_config"]["BlockDeviceMappings"])


def test_only_ssh_is_open_and_the_dashboard_is_on_loopback() -> None:
    found = cluster()
    assert (
        "IpPermissions" not in found["provider"]["security_group"]
    )  # Ray's own rules: SSH, and all within the group
    for kind in found["available_node_types"].values():
        assert not {"SecurityGroupIds", "NetworkInterfaces", "LaunchTemplate"} & set(kind["node_config"])
    (start,) = [line for line in found["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in start
    assert not any(
        "0.0.0.0" in line for line in found["head_start_ray_commands"] + found["worker_start_ray_commands"]
    )


def test_every_command_is_shell_even_in_the_brackets_that_ray_puts_around_it() -> None:
    found = cluster()
    for group in (
        "head_setup_commands",
        "worker_setup_commands",
        "head_start_ray_commands",
        "worker_start_ray_commands",
    ):
        for command in found[group]:
            checked = subprocess.run(
                ["bash", "-n", "-c", f"true && ({command})"], capture_output=True, text=True
            )
            assert checked.returncode == 0, f"{command}: {checked.stderr}"


@pytest.mark.parametrize("where", ["head", "worker"])
def test_ray_starts_with_the_root_the_region_and_the_token_mode(where: str, tmp_path: Path) -> None:
    """The commands as they stand, with programs in the place of `ray`, `cloud-init` and `pip` that tell what
    they were given."""
    found = cluster()
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    for name, script in {
        "ray": 'echo "ray $@ $DGFLOW_ROOT $AWS_DEFAULT_REGION $AWS_METADATA_SERVICE_TIMEOUT $RAY_AUTH_MODE"',
        "cloud-init": "echo eu-central-1",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    written = [command for command in found[f"{where}_setup_commands"] if command.endswith("~/dgflow.env")]
    lines = []
    for command in written + found[f"{where}_start_ray_commands"]:
        environment = {
            "HOME": str(tmp_path),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "RAY_HEAD_IP": "10.0.0.1",
        }
        done = subprocess.run(
            ["bash", "-c", f"true && ({command})"], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        lines += done.stdout.splitlines()
    inherited = f"{FILLED_IN['s3://BUCKET/PREFIX']} eu-central-1 5 token"
    assert [line.endswith(inherited) for line in lines] == [True, True]
    assert lines[0].startswith("ray stop ")
    assert lines[1].startswith(
        "ray start --head --port=6379" if where == "head" else "ray start --address=10.0.0.1:6379"
    )


@pytest.mark.parametrize(
    ("ray", "looks"),
    [("0" * 60, 60), ("0" * 12 + "1" * 5 + "0" * 20, 37), ("1" + "0" * 19 + "1" + "0" * 20, 41)],
)
def test_a_worker_ends_itself_after_ten_minutes_without_ray(ray: str, looks: int, tmp_path: Path) -> None:
    """`UserData` as it stands; at its n-th look a raylet is there where the n-th digit is 1.

    A look is half a minute: `sleep 30`.
    """
    scripts = {
        "sleep": 'echo "$1" >> slept',
        "pgrep": f'[ "$*" = "-x raylet" ] && [ "$(cut -c "$(wc -l < slept)" <<< {ray})" = 1 ]',
        "shutdown": 'echo "$@" > ended',
    }
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "user-data").write_text(cluster()["available_node_types"]["gpu"]["node_config"]["UserData"])
    (tmp_path / "user-data").chmod(0o755)
    subprocess.run(
        [tmp_path / "user-data"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        cwd=tmp_path,
        check=True,
        timeout=10,
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "ended").exists() or not (tmp_path / "ended").read_text():
        assert time.monotonic() < deadline, (tmp_path / "slept").read_text()
        time.sleep(0.05)
    assert (tmp_path / "ended").read_text() == "-h now\n"
    assert (tmp_path / "slept").read_text().splitlines() == ["30"] * looks


def test_what_is_installed_are_the_dependencies_in_the_versions_of_constraints(tmp_path: Path) -> None:
    found = cluster()
    assert found["file_mounts"]["~/dgflow/pyproject.toml"] == "./pyproject.toml"
    assert found["file_mounts"]["~/dgflow/constraints.txt"] == "./constraints.txt"
    assert found["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    (command,) = [
        command for command in found["setup_commands"] if command.endswith("> ~/dgflow/requirements.txt")
    ]
    (tmp_path / "dgflow").mkdir()
    (tmp_path / "dgflow" / "pyproject.toml").write_bytes((PROJECT / "pyproject.toml").read_bytes())
    command = command.replace("~/venv/bin/python", "python3", 1)
    subprocess.run(
        ["bash", "-c", f"true && ({command})"],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        check=True,
    )
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    asked = (tmp_path / "dgflow" / "requirements.txt").read_text().splitlines()
    assert set(asked) == _asked_for(project, "dgflow[run,dit]") and len(asked) == len(set(asked))
    installs = [command for command in found["head_setup_commands"] if "pip install" in command]
    assert installs and all("--constraint ~/dgflow/constraints.txt" in command for command in installs)


def _asked_for(project: dict[str, Any], line: str) -> set[str]:
    """The requirements of `dgflow[...]`, with those of the extras that its extras name."""
    own, _, names = line.rstrip("]").partition("[")
    assert own == "dgflow"
    found = set(project["dependencies"])
    for name in names.split(","):
        for requirement in project["optional-dependencies"][name]:
            nested = requirement.startswith("dgflow[")
            found |= _asked_for(project, requirement) if nested else {requirement}
    return found


def test_versions_are_those_of_constraints() -> None:
    assert f"boto3=={PINS['botocore']}" in CLUSTER.read_text()  # the two are released together
    assert manifests()["RayCluster"]["spec"]["rayVersion"] == PINS["ray"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _AuthOptions(_Strict):
    mode: Literal["disabled", "token"]


class _AutoscalerOptions(_Strict):
    version: Literal["v1", "v2"]
    idleTimeoutSeconds: int = Field(ge=0, default=60)


class _Head(_Strict):
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"]
    rayStartParams: dict[str, str]
    template: dict[str, Any]


class _WorkerGroup(_Strict):
    groupName: str
    replicas: int = Field(ge=0)
    minReplicas: int = Field(ge=0)
    maxReplicas: int = Field(ge=0)
    rayStartParams: dict[str, str]
    template: dict[str, Any]


class _Spec(_Strict):
    rayVersion: str
    authOptions: _AuthOptions
    enableInTreeAutoscaling: bool
    autoscalerOptions: _AutoscalerOptions
    headGroupSpec: _Head
    workerGroupSpecs: list[_WorkerGroup]


class RayCluster(_Strict):
    """`ray.io/v1`, as far as the manifest uses it."""

    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: dict[str, str]
    spec: _Spec


def test_kubernetes_accepts_the_manifest() -> None:
    found = manifests()
    spec = RayCluster.model_validate(found.pop("RayCluster")).spec
    for group in (spec.headGroupSpec, *spec.workerGroupSpecs):
        found[str(len(found))] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "any"},
            **group.template,
        }
    for manifest in found.values():
        kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_rays_autoscaler_reads_the_manifest_as_the_same_cluster() -> None:
    manifest = manifests()["RayCluster"]
    manifest["metadata"]["namespace"] = "default"
    found = autoscaling_config._derive_autoscaling_config_from_ray_cr(manifest)
    assert found["idle_timeout_minutes"] == cluster()["idle_timeout_minutes"]
    kinds = found["available_node_types"]
    assert kinds["headgroup"]["resources"]["CPU"] == 0 and "GPU" not in kinds["headgroup"]["resources"]
    assert kinds["gpu"]["resources"]["GPU"] == 1 and "GPU" not in kinds["cpu"]["resources"]
    for name, kind in cluster()["available_node_types"].items():
        if name != "head":
            assert (kinds[name]["min_workers"], kinds[name]["max_workers"]) == (0, kind["max_workers"])


def test_pods_share_a_root_and_a_role_and_are_reached_by_nobody_outside() -> None:
    found = manifests()
    spec = found["RayCluster"]["spec"]
    assert spec["authOptions"] == {"mode": "token"} and spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]
        assert pod["restartPolicy"] == "Never"
        (container,) = pod["containers"]
        assert container["env"] == [{"name": "DGFLOW_ROOT", "value": FILLED_IN["s3://BUCKET/PREFIX"]}]
        assert container["image"] == FILLED_IN["IMAGE"]
        assert not {"hostNetwork", "hostPort"} & set(re.findall(r"\w+", yaml.safe_dump(pod)))
    own = {"matchLabels": {"ray.io/cluster": found["RayCluster"]["metadata"]["name"]}}
    assert found["NetworkPolicy"]["spec"]["podSelector"] == own
    assert found["NetworkPolicy"]["spec"]["ingress"] == [{"from": [{"podSelector": own}]}]


@pytest.mark.parametrize(
    ("label", "on_demand", "spot"),
    [
        # Set by Karpenter and EKS Auto Mode; by EKS on the nodes of managed node groups.
        ("karpenter.sh/capacity-type", "on-demand", "spot"),
        ("eks.amazonaws.com/capacityType", "ON_DEMAND", "SPOT"),
    ],
)
def test_the_head_is_on_demand_and_workers_are_spot_on_nodes_of_either_autoscaler(
    label: str, on_demand: str, spot: str
) -> None:
    spec = manifests()["RayCluster"]["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        fit = [_may_run(group["template"]["spec"], {label: value}) for value in (on_demand, spot)]
        assert fit == ([True, False] if group is spec["headGroupSpec"] else [False, True])
        assert not _may_run(group["template"]["spec"], {})


def _may_run(pod: dict[str, Any], labels: dict[str, str]) -> bool:
    """The scheduler's rule, for the operator In: all of `nodeSelector`, and every expression of any term."""
    required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    terms = [term["matchExpressions"] for term in required["nodeSelectorTerms"]]
    assert all(each["operator"] == "In" for term in terms for each in term)
    selected = all(labels.get(key) == value for key, value in pod.get("nodeSelector", {}).items())
    return selected and any(all(labels.get(each["key"]) in each["values"] for each in term) for term in terms)


def test_no_autoscaler_of_nodes_moves_a_pod_of_the_run() -> None:
    """Annotations of pods, by the names that Karpenter (since 0.32) and Cluster Autoscaler document; as text,
    since an annotation that is a YAML boolean is refused."""
    spec = manifests()["RayCluster"]["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        annotations = group["template"]["metadata"]["annotations"]
        assert annotations["karpenter.sh/do-not-disrupt"] == "true"
        assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"


def test_images_and_hosts_have_what_torch_compile_calls() -> None:
    """The C++ compiler of inductor, the C compiler of Triton, and Python.h: Debian's and Ubuntu's g++ depends
    on gcc, and Python's official images have their headers."""
    dockerfile = (PROJECT / "Dockerfile").read_text()
    assert re.search(r"apt-get install .*\bg\+\+", dockerfile)
    assert re.findall(r"^FROM (\S+)", dockerfile, flags=re.MULTILINE) == ["python:${PYTHON}-slim-bookworm"]
    (command,) = [each for each in cluster()["setup_commands"] if "g++" in each]
    assert "python3-dev" in command and command.startswith("g++ --version && python3 -c ")


def test_the_documented_role_may_read_the_documented_data_and_every_command_names_it() -> None:
    text = (PROJECT / "docs" / "cluster.md").read_text()
    policy = json.loads(text.partition("```json\n")[2].partition("```")[0])
    readable = [
        statement["Resource"].removeprefix("arn:aws:s3:::")
        for statement in policy["Statement"]
        if "s3:GetObject" in statement["Action"]
    ]
    commands = re.findall(r"^ *python workflows/imagenet256_dit\.py (.*)$", text, flags=re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert "--smoke" in command or "--data s3://BUCKET/imagenet/train" in command
        for name in re.findall(r"s3://(\S+)", command):
            assert any(fnmatchcase(f"{name}/any", pattern) for pattern in readable), name


def test_a_job_carries_the_package_and_the_recipes_and_little_else(tmp_path: Path) -> None:
    create_package(str(PROJECT), tmp_path / "job.zip", include_gitignore=True)
    carried = zipfile.ZipFile(tmp_path / "job.zip").namelist()
    for folder in ("dgflow", "workflows"):
        files = {
            str(path.relative_to(PROJECT))
            for path in (PROJECT / folder).rglob("*")
            if path.suffix in (".py", ".html")
        }
        assert files <= set(carried)
    left_behind = (
        ".",
        "tests/",
        "docs/",
        "benchmarks/",
        "runs/",
        "data/",
        "cluster.yaml",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
    )
    assert not [name for name in carried if name.startswith(left_behind)]
    assert not any("__pycache__" in name for name in carried)
    assert (tmp_path / "job.zip").stat().st_size < 3e6  # bytes; 2.2 MB now, not compressed


def skypilot() -> dict[str, Any]:
    return yaml.safe_load(SKYPILOT.read_text())


def test_skypilot_accepts_the_task() -> None:
    """The schemas are copies of SkyPilot 0.14.1's: the package itself would install 100 others."""
    schemas = json.loads(Path(__file__).with_name("skypilot_schemas.json").read_text())
    task = skypilot()
    jsonschema.validate(task, schemas["task"])
    jsonschema.validate(task["resources"], schemas["resources"])
    with pytest.raises(jsonschema.ValidationError, match="num_node"):
        jsonschema.validate(task | {"num_node": 1}, schemas["task"])
    assert list(task["secrets"].values()) == [None]  # given on the command line


@pytest.mark.parametrize(("rank", "started"), [(0, 0), (1, 0), (0, 1)])
def test_skypilots_first_node_runs_the_recipe_on_a_cluster_of_our_own(
    rank: int, started: int, tmp_path: Path
) -> None:
    """The task's `run` as it stands, with programs in the place of `python` and SkyPilot's script."""
    bin = tmp_path / "dgflow" / "bin"
    bin.mkdir(parents=True)
    (bin / "activate").write_text(f"PATH={bin}:$PATH\n")
    template = tmp_path / "sky_templates" / "ray" / "start_cluster"
    template.parent.mkdir(parents=True)
    for program, script in {
        template: f"echo ray $RAY_HEAD_PORT $UV_OVERRIDE; exit {started}",
        bin / "python": 'echo "$RAY_AUTH_MODE $RAY_ADDRESS $@"',
    }.items():
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    task = skypilot()
    node = {"SKYPILOT_NODE_RANK": str(rank), "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], **task["envs"], **node}
    run = subprocess.run(
        ["bash", "-c", task["run"]], cwd=PROJECT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == started, run.stderr
    first, *others = run.stdout.splitlines()
    assert first == f"ray 6379 {PROJECT}/constraints.txt"  # SkyPilot's own Ray has 6380
    recipe = f"workflows/imagenet256_dit.py --data {task['envs']['DATA']} --root {task['envs']['ROOT']}"
    assert others == ([f"token 10.0.0.1:6379 {recipe}"] if not rank and not started else [])


def test_hadolint_has_nothing_against_the_dockerfile() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    linted = subprocess.run([hadolint, PROJECT / "Dockerfile"], capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_what_images_and_nodes_install_are_extras_of_the_package() -> None:
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    dockerfile = (PROJECT / "Dockerfile").read_text()
    [image] = re.findall(r"^ARG EXTRAS=(\S+)$", dockerfile, flags=re.MULTILINE)
    [nodes] = re.findall(r"--editable '\.\[(\S+)\]'", skypilot()["setup"])
    assert image == nodes and set(image.split(",")) <= set(extras)


def test_the_images_context_holds_what_it_is_built_from() -> None:
    """All files that `.dockerignore` includes exist, and the package's build needs no others."""
    lines = (PROJECT / ".dockerignore").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")][0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"]} <= let_in
    assert let_in >= {"dgflow", "workflows", "pyproject.toml", "constraints.txt"}
    assert all((PROJECT / name).exists() for name in let_in)
