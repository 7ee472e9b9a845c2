"""What must hold of infra/: each check reads a checkout and says what is wrong with it, nothing where all is well."""

from __future__ import annotations

import ast
import copy
import functools
import importlib.resources
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema
from jsonschema import Draft202012Validator
from ray.autoscaler._private.util import prepare_config, validate_config
from referencing import Registry, Resource

from tests.infra.commands import NIGHT, calls, refusal, shell_lines
from tests.infra.dockerfile import Image
from tests.infra.kustomize import BuildError, build, containers, load

KUBERNETES: Final = "v1.37.0-local-strict"
DAY: Final = 86400
RAYJOB: Final = json.loads((Path(__file__).parent / "rayjob.schema.json").read_text())
RESTRICTED: Final = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
SHELLCHECK: Final = Path(sys.executable).with_name("shellcheck")


class Checkout:
    """A tree of the project, and what stands in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        self.image = Image(root)

    @property
    def kuberay(self) -> Path:
        return self.root / "infra/kuberay"

    @functools.cached_property
    def cluster(self) -> dict[str, Any]:
        made: dict[str, Any] = load((self.root / "infra/aws/cluster.yaml").read_text())
        return made

    @functools.cached_property
    def resources(self) -> list[dict[str, Any]]:
        """Those of the kustomization, and with the alternative to the CronJob those too."""
        made = build(self.kuberay)
        with tempfile.TemporaryDirectory() as folder:
            for file in self.kuberay.iterdir():
                text = file.read_text()
                if file.name == "kustomization.yaml":
                    text = re.sub("  - cronjob.yaml.*\n", "  - raycronjob.yaml\n", text)
                    text = re.sub("  - name: kubectl .*\n(    .*\n)+", "", text)
                (Path(folder) / file.name).write_text(text)
            other = build(Path(folder))
        return made + [resource for resource in other if resource["kind"] == "RayCronJob"]

    def pins(self, name: str) -> str:
        """The version of a package that pyproject.toml names."""
        every = [*self.project["dependencies"], *self.project["optional-dependencies"]["test"]]
        [pin] = [line for line in every if re.match(rf"{name}(\[.*\])?==", line)]
        return str(pin.partition("==")[2])


@functools.cache
def _definitions() -> tuple[list[str], str, Registry[Any]]:
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema" / KUBERNETES
    schema = json.loads((folder / "_definitions.json").read_text())
    return list(schema["$defs"]), schema["$id"], Resource.from_contents(schema) @ Registry()


@functools.cache
def _validator(name: str) -> Draft202012Validator:
    """Of one definition of Kubernetes, by the end of its name, as in ``batch.v1.CronJob``."""
    names, address, registry = _definitions()
    [full] = [each for each in names if each.endswith(f".{name}")]
    return Draft202012Validator({"$ref": f"{address}#/$defs/{full}"}, registry=registry)


def _errors(validator: Draft202012Validator, value: Any, what: str) -> Iterator[str]:
    for error in validator.iter_errors(value):
        best = jsonschema.exceptions.best_match([error])
        yield f"{what}: {'/'.join(map(str, best.absolute_path))}: {best.message}"


def _name(resource: dict[str, Any]) -> str:
    return f"{resource['kind']} {resource['metadata']['name']}"


def _job_spec(resource: dict[str, Any]) -> dict[str, Any]:
    """The spec of a RayJob, also of the one inside a RayCronJob."""
    spec: dict[str, Any] = resource["spec"]
    return spec["jobTemplate"] if resource["kind"] == "RayCronJob" else spec


def _pods(resource: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pod templates of a resource."""
    if resource["kind"] == "CronJob":
        return {"night": resource["spec"]["jobTemplate"]["spec"]["template"]}
    if resource["kind"] not in ("RayJob", "RayCronJob"):
        return {}
    spec = _job_spec(resource)
    cluster = spec["rayClusterSpec"]
    return {
        "submitter": spec["submitterPodTemplate"],
        "head": cluster["headGroupSpec"]["template"],
        **{group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]},
    }


def schemas(checkout: Checkout) -> Iterator[str]:
    """Every resource has the fields of its kind and no other, and every reference of the kustomization is met."""
    try:
        resources = checkout.resources
    except BuildError as error:
        yield str(error)
        return
    kinds = {
        "Role": "rbac.v1.Role",
        "RoleBinding": "rbac.v1.RoleBinding",
        "NetworkPolicy": "networking.v1.NetworkPolicy",
    }
    kinds |= {
        "CronJob": "batch.v1.CronJob",
        "ConfigMap": "core.v1.ConfigMap",
        "ServiceAccount": "core.v1.ServiceAccount",
    }
    for resource in resources:
        if resource["kind"] in kinds:
            yield from _errors(_validator(kinds[resource["kind"]]), resource, _name(resource))
            continue
        kind = {"RayJob": "rayJob", "RayCronJob": "rayCronJob"}[resource["kind"]]
        found = list(_errors(Draft202012Validator({**RAYJOB, "oneOf": [{"$ref": f"#/$defs/{kind}"}]}),
                             resource, _name(resource)))  # fmt: skip
        yield from found
        if found:
            continue
        for role, pod in _pods(resource).items():
            yield from _errors(_validator("core.v1.PodTemplateSpec"), pod, f"{_name(resource)}, {role}")
        extra = {"name": "autoscaler", **_job_spec(resource)["rayClusterSpec"]["autoscalerOptions"]}
        own = {"version", "upscalingMode", "idleTimeoutSeconds"}
        container = {key: value for key, value in extra.items() if key not in own}
        yield from _errors(_validator("core.v1.Container"), container, f"{_name(resource)}, autoscaler")


def pods(checkout: Checkout) -> Iterator[str]:
    """No pod has rights it does not need, and whatever it names is there."""
    resources = checkout.resources
    names = {
        kind: {r["metadata"]["name"] for r in resources if r["kind"] == kind}
        for kind in ("ConfigMap", "ServiceAccount")
    }
    for resource in resources:
        for role, pod in _pods(resource).items():
            what = f"{_name(resource)}, {role}"
            spec = pod["spec"]
            if not spec["securityContext"].get("runAsNonRoot") or not spec["securityContext"].get("runAsUser"):
                yield f"{what}: may run as root"
            if "automountServiceAccountToken" not in spec:
                yield f"{what}: gets the API server's token by default"
            account = spec.get("serviceAccountName")
            if account is not None and account not in names["ServiceAccount"]:
                yield f"{what}: no ServiceAccount {account}"
            volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
            maps = {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume}
            for container in containers({"pod": spec}):
                each = f"{what}, {container['name']}"
                if container.get("securityContext") != RESTRICTED:
                    yield f"{each}: securityContext is not {RESTRICTED}"
                if not {"requests", "limits"} <= set(container.get("resources", ())):
                    yield f"{each}: no requests or limits"
                maps |= {source["configMapRef"]["name"] for source in container.get("envFrom", ())}
                for mount in container.get("volumeMounts", ()):
                    if mount["name"] not in volumes:
                        yield f"{each}: no volume {mount['name']}"
                if "/tmp" not in {mount["mountPath"] for mount in container.get("volumeMounts", ())}:
                    yield f"{each}: /tmp is not mounted, and nothing else can be written to"
            yield from (f"{what}: no ConfigMap {name}" for name in sorted(maps - names["ConfigMap"]))
    rules = [rule for resource in resources if resource["kind"] == "Role" for rule in resource["rules"]]
    if rules != [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "create"]}]:
        yield f"Role: more or less than get and create of rayjobs: {rules}"
    for resource in resources:
        for subject in resource.get("subjects", ()):
            if subject["name"] not in names["ServiceAccount"]:
                yield f"{_name(resource)}: no ServiceAccount {subject['name']}"


def nights(checkout: Checkout) -> Iterator[str]:
    """The job is what the schedule, KubeRay and the monitoring take it for."""
    resources = {resource["kind"]: resource for resource in checkout.resources}
    labels = resources["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    cron = resources["CronJob"]["spec"]
    if cron.get("concurrencyPolicy") != "Forbid":
        yield "CronJob: two nights may run at once"
    if resources["RayJob"]["spec"].get("suspend") is not True:
        yield "RayJob: the template would run by itself"
    for resource in (resources["RayJob"], resources["RayCronJob"]):
        spec = _job_spec(resource)
        cluster = spec["rayClusterSpec"]
        head = cluster["headGroupSpec"]
        [ray] = head["template"]["spec"]["containers"]
        facts = {
            "the entrypoint is more than one line": "\n" in spec["entrypoint"],
            f"the entrypoint has not {NIGHT} once": spec["entrypoint"].count(NIGHT) != 1,
            "the cluster stays after the job": spec.get("shutdownAfterJobFinishes") is not True,
            "no token is asked for": cluster.get("authOptions") != {"mode": "token"},
            "the version of Ray is not that of the image": cluster["rayVersion"] != checkout.pins("ray"),
            "work may run on the head": head["rayStartParams"].get("num-cpus") != "0",
            "the number of nodes is fixed": cluster.get("enableInTreeAutoscaling") is not True,
            "the head has no port metrics 8080": {"name": "metrics", "containerPort": 8080} not in ray["ports"],
            "a pod is not covered by the NetworkPolicy": any(
                not labels.items() <= pod["metadata"]["labels"].items() for pod in _pods(resource).values()
            ),
            "the head and the workers run on the same nodes": any(
                group["template"]["spec"]["nodeSelector"] == head["template"]["spec"]["nodeSelector"]
                for group in cluster["workerGroupSpecs"]
            ),
        }
        yield from (f"{_name(resource)}: {what}" for what, wrong in facts.items() if wrong)
        minute, hour, *every = (cron if resource["kind"] == "RayJob" else resource["spec"])["schedule"].split()
        tries = (spec["backoffLimit"] + 1) * spec["activeDeadlineSeconds"]
        begin = 3600 * int(hour) + 60 * int(minute)
        if every != ["*"] * 3 or begin + tries >= DAY:
            yield f"{_name(resource)}: its tries, {tries} s from {hour}:{minute:>02}, are not over before the day is"
        waits = cron["jobTemplate"]["spec"]["activeDeadlineSeconds"]
        if waits < tries or begin + cron["startingDeadlineSeconds"] + waits >= DAY:
            yield f"CronJob: {waits} s are less than the tries need, or are not over before the day is"


def commands(checkout: Checkout) -> Iterator[str]:
    """Every call of ours is one that the command line takes, and every path is there."""
    resources = checkout.resources
    values = {k: v for r in resources if r["kind"] == "ConfigMap" for k, v in r["data"].items() if "\n" not in v}
    places: dict[str, list[str]] = {}
    for resource in resources:
        if resource["kind"] in ("RayJob", "RayCronJob"):
            places[f"{_name(resource)}, entrypoint"] = [_job_spec(resource)["entrypoint"]]
    places["Dockerfile"] = [*checkout.image.runs, " ".join(checkout.image.command)]
    for file in sorted(checkout.root.glob("infra/*/*")):
        if file.is_file() and file.parent.name in ("image", "kuberay", "aws") and file.suffix != ".json":
            text = file.read_text()
            places[f"{file.name}, comments"] = list(shell_lines(text, comment="#"))
            for path in re.findall(r"infra/[\w./-]*\w", text):
                if not (checkout.root / path).exists():
                    yield f"{file.name}: no {path}"
    seen = 0
    for where, lines in places.items():
        for line in lines:
            for program, arguments in calls(line, values):
                seen += 1
                refused = refusal(arguments)
                if refused is not None:
                    yield f"{where}: {refused}"
                if program.endswith(".py") and not checkout.image.has(program) and not _mounted(checkout, program):
                    yield f"{where}: no {program}"
    if seen < 5:
        yield f"only {seen} commands found"


def _mounted(checkout: Checkout, path: str) -> bool:
    """Whether a path of a node of infra/aws/cluster.yaml is there, by its file mounts."""
    mounts = checkout.cluster["file_mounts"].items()
    return any(
        path.startswith(f"{remote}/") and (checkout.root / local / path[len(remote) + 1 :]).is_file()
        for remote, local in mounts
    )


def image(checkout: Checkout) -> Iterator[str]:
    """The Dockerfile is pinned, small, without root, and of the project's version; so are the names of its image."""
    yield from checkout.image.problems(checkout.project["requires-python"])
    version = checkout.project["version"]
    if checkout.image.labels.get("org.opencontainers.image.version") != version:
        yield f"Dockerfile: its label is not version {version}"
    for file in ("image/Dockerfile", "kuberay/kustomization.yaml"):
        text = (checkout.root / "infra" / file).read_text()
        for tag in re.findall(r"mosaic-ray:(\S+)|newName: mosaic-ray\n +newTag: (\S+)", text):
            if "".join(tag) != version:
                yield f"{file}: mosaic-ray:{''.join(tag)} is not version {version}"
    for resource in checkout.resources:
        for container in containers(resource):
            if not re.fullmatch(r"[a-z0-9./-]+:\d[\w.-]*", container["image"]):
                yield f"{_name(resource)}: image {container['image']} has no version"


def scripts(checkout: Checkout) -> Iterator[str]:
    """Every script and every snippet of shell or Python parses, and ShellCheck has nothing to say."""
    shell = {file.name: file.read_text() for file in checkout.kuberay.glob("*.sh")}
    for resource in checkout.resources:
        if resource["kind"] == "RayJob":
            shell["entrypoint.sh"] = f"#!/bin/bash\n{_job_spec(resource)['entrypoint']}\n"
        for container in containers(resource):
            if container.get("command", [])[:2] == ["python", "-c"]:
                try:
                    ast.parse("\n".join(container["args"]))
                except SyntaxError as error:
                    yield f"{container['name']}: {error}"
    cluster = checkout.cluster
    for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        shell |= {f"{key}-{n}.sh": f"#!/bin/bash\n{line}\n" for n, line in enumerate(cluster[key])}
    shell |= {f"run-{n}.sh": f"#!/bin/sh\n{line}\n" for n, line in enumerate(checkout.image.runs)}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in shell.items():
            (Path(folder) / name).write_text(text)
        command = [SHELLCHECK, "--format=gcc", *sorted(shell)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        yield from (done.stdout + done.stderr).splitlines()


def aws(checkout: Checkout) -> Iterator[str]:
    """The launcher's file is what Ray takes, with spot workers, roles and a token; the policies ask for no more."""
    try:
        validate_config(prepare_config(copy.deepcopy(checkout.cluster)))
    except (jsonschema.ValidationError, ValueError) as error:
        yield f"cluster.yaml: {getattr(error, 'message', error)}"
        return
    cluster = checkout.cluster
    types = cluster["available_node_types"]
    head, worker = (types[name]["node_config"] for name in ("head", "worker"))
    setup = " ".join(cluster["setup_commands"])
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    facts = {
        "the head is on spot": "InstanceMarketOptions" in head,
        "the workers are not on spot": worker.get("InstanceMarketOptions") != {"MarketType": "spot"},
        "the head has no instance profile": "Name" not in head.get("IamInstanceProfile", ()),
        "the workers have no instance profile": "Name" not in worker.get("IamInstanceProfile", ()),
        "Ray starts without a token": any("RAY_AUTH_MODE=token" not in line for line in starts if "ray start" in line),
        "the token is not copied": not any("auth_token" in path for path in cluster["file_mounts"]),
        "the dashboard is open": not any("--dashboard-host=127.0.0.1" in line for line in starts),
        "work may run on the head": not any("--head" in line and "--num-cpus=0" in line for line in starts),
        "boto3 is not the one that is tested": f"boto3=={checkout.pins('boto3')}" not in setup,
        "more nodes than there may be": cluster["max_workers"] < types["worker"]["max_workers"],
    }
    yield from (f"cluster.yaml: {what}" for what, wrong in facts.items() if wrong)
    if re.search(
        r"\b(AKIA|ASIA)[A-Z0-9]{12,}|aws_secret|BEGIN [A-Z ]*PRIVATE",
        (checkout.root / "infra/aws/cluster.yaml").read_text(),
    ):
        yield "cluster.yaml: holds a key"
    autoscaler = json.loads((checkout.root / "infra/aws/autoscaler-policy.json").read_text())
    tags = [
        s["Condition"]["StringEquals"]["aws:ResourceTag/ray-cluster-name"]
        for s in autoscaler["Statement"]
        if "Condition" in s
    ]
    if tags != [cluster["cluster_name"]]:
        yield f"autoscaler-policy.json: ends nodes of {tags}, not of {cluster['cluster_name']}"
    for file in ("policy", "autoscaler-policy"):
        document = json.loads((checkout.root / f"infra/aws/{file}.json").read_text())
        for statement in document["Statement"]:
            if any("*" in action for action in statement["Action"]):
                yield f"{file}.json: {statement['Sid']} asks for {statement['Action']}"
    lifecycle = json.loads((checkout.root / "infra/aws/lifecycle.json").read_text())
    [rule] = lifecycle["Rules"]
    if rule["Status"] != "Enabled" or rule["AbortIncompleteMultipartUpload"] != {"DaysAfterInitiation": 2}:
        yield "lifecycle.json: unfinished uploads do not end after two days"


CHECKS: Final = {check.__name__: check for check in (schemas, pods, nights, commands, image, scripts, aws)}
