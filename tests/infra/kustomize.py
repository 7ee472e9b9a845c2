"""What ``kubectl kustomize infra/kuberay`` makes of the files, as far as they use it; every reference must be met.

Generators, patches by JSON pointers (add, replace), images, the namespace and replacements by plain field paths. A
field of the kustomization that is not known here is an error, so nothing is passed over.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

Resource = dict[str, Any]

_KNOWN: Final = {
    "apiVersion", "kind", "namespace", "resources", "images", "generatorOptions", "configMapGenerator", "patches",
    "replacements",
}  # fmt: skip
_ABSENT: Final = frozenset({"RayCronJob"})
"""Kinds that a patch or a replacement may name without there being one: the alternative to the CronJob."""


class BuildError(Exception):
    """The kustomization names something that is not there."""


def load(text: str) -> Any:
    """One YAML document, by libyaml."""
    return yaml.load(text, yaml.CSafeLoader)


def build(folder: Path) -> list[Resource]:
    """All resources of a folder's kustomization, as they would be applied. Raises BuildError."""
    plan = load((folder / "kustomization.yaml").read_text())
    if unknown := set(plan) - _KNOWN:
        raise BuildError(f"kustomization.yaml: unknown fields {sorted(unknown)}")
    resources: list[Resource] = []
    for name in plan["resources"]:
        if not (folder / name).is_file():
            raise BuildError(f"resources: no file {name}")
        resources += copy.deepcopy(list(yaml.load_all((folder / name).read_text(), yaml.CSafeLoader)))
    resources += [_config_map(folder, given) for given in plan["configMapGenerator"]]
    for patch in plan["patches"]:
        _patch(resources, patch)
    _name_images(resources, plan["images"])
    for resource in resources:
        resource["metadata"]["namespace"] = plan["namespace"]
        for subject in resource.get("subjects", ()):
            subject["namespace"] = plan["namespace"]
    for replacement in plan["replacements"]:
        _replace(resources, replacement)
    return resources


def _config_map(folder: Path, given: Mapping[str, Any]) -> Resource:
    if unknown := set(given) - {"name", "literals", "files"}:
        raise BuildError(f"configMapGenerator {given['name']}: unknown fields {sorted(unknown)}")
    data = dict(literal.split("=", 1) for literal in given.get("literals", ()))
    for name in given.get("files", ()):
        if not (folder / name).is_file():
            raise BuildError(f"configMapGenerator {given['name']}: no file {name}")
        data[name] = (folder / name).read_text()
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": given["name"]}, "data": data}


def _selected(resources: list[Resource], kind: str, name: str | None = None) -> list[Resource]:
    found = [
        resource
        for resource in resources
        if re.fullmatch(kind, resource["kind"]) and name in (None, resource["metadata"]["name"])
    ]
    if not found and kind not in _ABSENT:
        raise BuildError(f"no {kind} {name or ''} among the resources")
    return found


def _patch(resources: list[Resource], patch: Mapping[str, Any]) -> None:
    for resource in _selected(resources, **patch["target"]):
        for step in load(patch["patch"]):
            keys = [key.replace("~1", "/").replace("~0", "~") for key in step["path"].split("/")[1:]]
            if step["op"] not in ("add", "replace"):
                raise BuildError(f"patch: op {step['op']}")
            _set(resource, keys, step["value"], existing=step["op"] == "replace")


def _replace(resources: list[Resource], replacement: Mapping[str, Any]) -> None:
    source = replacement["source"]
    [node] = _selected(resources, source["kind"], source["name"])
    for key in source["fieldPath"].split("."):
        if key not in node:
            raise BuildError(f"replacements: {source['kind']} {source['name']} has no {source['fieldPath']}")
        node = node[key]
    for target in replacement["targets"]:
        for resource in _selected(resources, **target["select"]):
            for path in target["fieldPaths"]:
                _set(resource, path.split("."), copy.deepcopy(node), existing=True)


def _set(node: Any, keys: list[str], value: Any, *, existing: bool) -> None:
    for depth, key in enumerate(keys):
        place = int(key) if isinstance(node, list) else key
        last = depth == len(keys) - 1
        there = place < len(node) if isinstance(node, list) else place in node
        if not there and (existing or not last):
            raise BuildError(f"no field {'/'.join(keys)}")
        if last:
            node[place] = value
        else:
            node = node[place]


def _name_images(resources: list[Resource], images: list[Mapping[str, str]]) -> None:
    full = {}
    for image in images:
        if unknown := set(image) - {"name", "newName", "newTag"}:
            raise BuildError(f"images: unknown fields {sorted(unknown)}")
        full[image["name"]] = f"{image['newName']}:{image['newTag']}"
    used = set()
    for container in (one for resource in resources for one in containers(resource)):
        if container["image"] not in full:
            raise BuildError(f"container {container['name']}: images names no {container['image']}")
        used.add(container["image"])
        container["image"] = full[container["image"]]
    if unused := set(full) - used:
        raise BuildError(f"images: no container has {sorted(unused)}")


def containers(node: Any) -> Iterator[dict[str, Any]]:
    """Every container and init container inside a resource."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("containers", "initContainers"):
                yield from value
            else:
                yield from containers(value)
    elif isinstance(node, list):
        for value in node:
            yield from containers(value)
