"""What a container runtime makes of the names of CDI devices: it looks them up in the directory of specs."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


class Unresolvable(Exception):  # noqa: N818 - an outcome
    """Names that no spec has: the container can't be created."""


@dataclass(slots=True)
class Container:
    """What a container gets: variables, device nodes with permissions, mounts by path in the container."""

    variables: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    mounts: dict[str, str] = field(default_factory=dict)


def container(directory: str, names: Iterable[str]) -> Container:
    """Return what a container with these CDI devices gets.

    Raises:
        Unresolvable: one is not there.
    """
    there: dict[str, Mapping[str, Any]] = {}
    with os.scandir(directory) as entries:
        for path in sorted(entry.path for entry in entries if entry.name.endswith(".json")):
            with open(path) as file:
                spec = json.load(file)
            for device in spec["devices"]:
                there[f"{spec['kind']}={device['name']}"] = device["containerEdits"]
    wanted = list(names)
    if missing := [name for name in wanted if name not in there]:
        raise Unresolvable(f"unresolvable CDI devices {', '.join(missing)}")
    result = Container()
    for edits in (there[name] for name in wanted):
        result.variables |= dict(each.split("=", 1) for each in edits.get("env", ()))
        result.nodes |= {
            each["path"]: each.get("permissions", "rwm") for each in edits.get("deviceNodes", ())
        }
        result.mounts |= {each["containerPath"]: each["hostPath"] for each in edits.get("mounts", ())}
    return result
