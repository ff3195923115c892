"""Finds the plugin's pods and reads the state of each node through the API server's proxy of pods.

Any user who may create a pod may give it the plugin's labels and let it answer what it likes. So an answer
has limits in size and time, its form is checked, and `render` prints no control character of it.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from xilinx_fpga_dp.apiserver.client import ApiServer, Json, path
from xilinx_fpga_dp.apiserver.errors import ApiServerError, Refused
from xilinx_fpga_dp.cli.command import BadUse

AT_ONCE: Final = 32
"""Nodes that are asked at a time."""

_LIMIT: Final = 5.0  # seconds for the answer of a pod
_LARGEST: Final = 2 << 20  # bytes of an answer; a device id takes about 900
_MOST: Final = 4096  # device ids and functions of a node
_CANDIDATES: Final = 3  # pods of a node that are asked; two run in an update
_LONGEST_REASON: Final = 300  # characters
_PORT: Final = "http"  # the name of the port in the DaemonSet

_Text = Annotated[str, StringConstraints(max_length=512)]
_Number = Annotated[int, Field(ge=0, lt=1 << 63)]


class _Part(BaseModel):
    """A part of ``/state``. A plugin of another version may lack a member or have more."""

    model_config = ConfigDict(strict=True)


class Holder(_Part):
    """A container that holds a device."""

    namespace: _Text
    pod: _Text
    container: _Text


class Device(_Part):
    """A device of a node."""

    id: _Text
    health: _Text
    board: _Text | None = None
    shell: _Text | None = None
    timestamp: _Text | None = None
    serial: _Text | None = None
    reason: _Text | None = None
    since: _Text | None = None
    resource: _Text | None = None
    driver: _Text | None = None
    numa_node: _Number | None = None
    changes: _Number | None = None
    last_reason: _Text | None = None
    held_by: Annotated[list[Holder], Field(max_length=_MOST)] = []
    nodes: Annotated[list[_Text], Field(max_length=64)] = []

    @property
    def healthy(self) -> bool:
        return self.health == "Healthy"


class LeftOut(_Part):
    """A function that is not offered."""

    function: _Text
    reason: Annotated[str, StringConstraints(max_length=4096)]


class State(_Part):
    """The answer of ``/state``."""

    devices: Annotated[list[Device], Field(max_length=_MOST)]
    left_out: Annotated[list[LeftOut], Field(max_length=_MOST)] = []

    def missing(self) -> list[str]:
        """Return the members that the devices lack, as those of an older version do."""
        return sorted(
            {name for each in self.devices for name in Device.model_fields.keys() - each.model_fields_set}
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node answered: a state, and the document that has it; or why there is none."""

    node: str
    pod: str = ""  # namespace/name
    state: State | None = None
    document: Json = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in the cluster.

    Attributes:
        pods: how many pods of the plugin there are.
        answers: one a node, by the node's name.
        warnings: sentences.
    """

    pods: int
    answers: tuple[Answer, ...]
    warnings: tuple[str, ...] = ()

    def unhealthy(self) -> "Found":
        """Return the same without the devices that are Healthy."""
        return replace(self, answers=tuple(map(_unhealthy, self.answers)))


@dataclass(frozen=True, slots=True)
class _Pod:
    namespace: str
    name: str
    node: str
    port: int | None
    problem: str  # why it is not asked
    ready: bool
    leaving: bool
    created: str


async def read(api: ApiServer, namespace: str, selector: str, nodes: Sequence[str]) -> Found:
    """Read the state of nodes.

    Args:
        api: the API server.
        namespace: of the pods; empty: all.
        selector: the labels of the pods.
        nodes: their names; empty: all that have a pod of the plugin.

    Raises:
        ApiServerError: the pods cannot be listed.
        BadUse: that is no namespace.
    """
    try:
        collection = path("api/v1", "namespaces", namespace, "pods") if namespace else "/api/v1/pods"
    except ValueError as error:
        raise BadUse(f"--namespace: {error}") from None
    listing = await api.list(collection, labels=selector)
    pods = [_pod(each) for each in listing.objects]
    namespaces = Counter(each.namespace for each in pods)
    by_node: dict[str, list[_Pod]] = {node: [] for node in nodes}
    for each in sorted(pods, key=lambda pod: pod.created, reverse=True):
        if each.node and (each.node in by_node or not nodes):
            by_node.setdefault(each.node, []).append(each)
    for candidates in by_node.values():
        # While two instances run on a node, as in an update, the newer one that is ready has the devices.
        candidates.sort(
            key=lambda pod: (-namespaces[pod.namespace], bool(pod.problem), pod.leaving, not pod.ready)
        )
    turn = asyncio.Semaphore(AT_ONCE)
    answers = await asyncio.gather(*(_ask(api, turn, node, by_node[node]) for node in sorted(by_node)))
    return Found(len(pods), tuple(answers), tuple(_warnings(namespaces, answers)))


async def _ask(api: ApiServer, turn: asyncio.Semaphore, node: str, pods: Sequence[_Pod]) -> Answer:
    """Return the first answer of the node's pods, or the error of the first of them."""
    answers = []
    async with turn:
        for pod in pods[:_CANDIDATES]:
            answer = Answer(node, f"{pod.namespace}/{pod.name}", error=pod.problem)
            if not pod.problem:
                answer = await _state(api, pod, answer)
            if answer.state:
                return answer
            answers.append(answer)
    return answers[0] if answers else Answer(node, error="no pod of the plugin on this node")


async def _state(api: ApiServer, pod: _Pod, answer: Answer) -> Answer:
    place = f"{path('api/v1', 'namespaces', pod.namespace, 'pods', pod.name)}:{pod.port}/proxy/state"
    try:
        body = await api.call("GET", place, limit=_LIMIT, largest=_LARGEST)
        document = json.loads(body)
        json.dumps(document, allow_nan=False)  # Python reads NaN and Infinity, which are no JSON
        return replace(answer, state=State.model_validate(document), document=document)
    except Refused as error:
        why = f"{error.code} {error.message}"
    except ApiServerError as error:
        why = str(error).removeprefix(f"GET {place}: ")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "/state"
        why = f"not the state of a node: {where}: {first['msg']}"
    except (ValueError, RecursionError):
        why = "the answer of /state is no JSON"
    return replace(answer, error=f"pod {answer.pod}: {_short(why)}")


def _pod(item: Json) -> _Pod:
    """Make the part of a pod that counts here."""
    metadata, spec, status = item["metadata"], item["spec"], item.get("status") or {}
    container, port = next(
        (
            (each["name"], port["containerPort"])
            for each in spec["containers"]
            for port in each.get("ports") or ()
            if port.get("name") == _PORT
        ),
        ("", None),
    )
    name = f"{metadata['namespace']}/{metadata['name']}"
    problem = ""
    if why := _not_running(status, container):
        problem = _short(f"pod {name} is not running: {why}")
    elif not port:
        problem = f"pod {name} has no port named {_PORT}: its HTTP_ADDRESS is empty"
    conditions = {each["type"]: each["status"] for each in status.get("conditions") or ()}
    return _Pod(
        metadata["namespace"],
        metadata["name"],
        _node_of(spec),
        port,
        problem,
        conditions.get("Ready") == "True",
        "deletionTimestamp" in metadata,
        str(metadata.get("creationTimestamp")),
    )


def _not_running(status: Mapping[str, Any], container: str) -> str:
    """Return why a container does not run: the phase of its pod and the reasons; empty if it runs."""
    states = [
        each["state"]
        for each in status.get("containerStatuses") or ()
        if each["name"] == container and each.get("state")
    ]
    reasons = [state[kind].get("reason") for state in states for kind in state if kind != "running"]
    phase = str(status.get("phase", "Unknown"))
    if phase == "Running" and not reasons:
        return ""
    pending = [
        each.get("reason") for each in status.get("conditions") or () if each["type"] == "PodScheduled"
    ]
    return ", ".join(filter(None, (phase, status.get("reason"), *(reasons or pending))))


def _node_of(spec: Mapping[str, Any]) -> str:
    """Return the node of a pod, or that a DaemonSet made it for; empty if there is none.

    The node of a pod of a DaemonSet that is not scheduled yet stands in its affinity
    (kubernetes pkg/controller/daemon/util/daemonset_util.go, ReplaceDaemonSetPodNodeNameNodeAffinity).
    """
    if node := spec.get("nodeName"):
        return str(node)
    affinity: Any = spec
    for name in ("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"):
        affinity = affinity.get(name) or {}
    fields = [
        each for term in affinity.get("nodeSelectorTerms") or () for each in term.get("matchFields") or ()
    ]
    return next((str(each["values"][0]) for each in fields if each["key"] == "metadata.name"), "")


def _warnings(namespaces: Counter[str], answers: Sequence[Answer]) -> Iterator[str]:
    if len(namespaces) > 1:
        found = ", ".join(f"{name} ({count})" for name, count in namespaces.most_common())
        yield f"pods with the plugin's labels are in several namespaces: {found}; --namespace chooses one"
    for each in answers:
        if each.state and (missing := each.state.missing()):
            yield f"{each.node}: its /state has no {', '.join(missing)}: another version of the plugin"


def _unhealthy(answer: Answer) -> Answer:
    if not answer.state:
        return answer
    devices = answer.state.devices
    kept = [index for index, each in enumerate(devices) if not each.healthy]
    return replace(
        answer,
        state=answer.state.model_copy(update={"devices": [devices[index] for index in kept]}),
        document=answer.document | {"devices": [answer.document["devices"][index] for index in kept]},
    )


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."
