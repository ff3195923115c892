"""The rights at the API server that the settings need, and the manifest that gives those that are missing."""

import asyncio
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from xilinx_fpga_dp.settings import Settings

_AUTHORIZATION = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_AUTHENTICATION = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
_ACCOUNT = "system:serviceaccount:"


@dataclass(frozen=True, slots=True)
class Right:
    """A right that a setting needs."""

    setting: str  # its name without a prefix, or with the value that needs it
    verb: str
    group: str  # of the API, empty for the core
    resource: str  # with a subresource after a slash
    namespace: str = ""  # empty: everywhere


RIGHTS = (
    Right("EVENTS", "create", "events.k8s.io", "events", "default"),
    Right("EVENTS", "patch", "events.k8s.io", "events", "default"),
    Right("NODE_CONDITION", "patch", "", "nodes/status"),
    Right("STARTUP_TAINT", "patch", "", "nodes"),
    *(
        Right("MODE=dra", verb, "resource.k8s.io", "resourceslices")
        for verb in ("get", "list", "watch", "create", "update", "delete")
    ),
    Right("MODE=dra", "get", "resource.k8s.io", "resourceclaims"),
)
"""All rights, by setting."""

_READ_NODE = Right("MODE=dra", "get", "", "nodes")  # for the uid of the owner of the slices


@dataclass(frozen=True, slots=True)
class Rights:
    """What the API server answered."""

    settings: tuple[str, ...]  # that call the API server
    problem: str | None = None  # why it did not answer
    user: str = ""  # the name of this process at the API server
    missing: tuple[Right, ...] = ()
    needed: tuple[Right, ...] = ()  # those too


async def ask(settings: Settings) -> Rights | None:
    """Ask which of the needed rights this process has; None if none is needed."""
    needed = [right for right in RIGHTS if _is_on(settings, right.setting)]
    if not needed:
        return None
    from xilinx_fpga_dp.apiserver import access
    from xilinx_fpga_dp.apiserver.client import ApiServer
    from xilinx_fpga_dp.apiserver.errors import ApiServerError

    names = tuple(dict.fromkeys(right.setting for right in needed))
    async with ApiServer(access.find(os.environ)) as api:
        try:
            # A pod's token has the uid of its Node; of a kubeconfig's user the Node is read.
            if settings.mode == "dra" and not await api.bound_node_uid(settings.node_name):
                needed.append(_READ_NODE)
            review = await api.create(_AUTHENTICATION, {})
            answers = await asyncio.gather(*(api.create(_AUTHORIZATION, _review(right)) for right in needed))
        except ApiServerError as error:
            return Rights(names, str(error))
    missing = tuple(
        right for right, answer in zip(needed, answers, strict=True) if not answer["status"].get("allowed")
    )
    user = str(review["status"]["userInfo"].get("username", ""))
    return Rights(names, user=user, missing=missing, needed=tuple(needed))


def _is_on(settings: Settings, setting: str) -> bool:
    name, _, value = setting.partition("=")
    given = getattr(settings, name.lower())
    return given == value if value else bool(given)


def _review(right: Right) -> dict[str, Any]:
    resource, _, subresource = right.resource.partition("/")
    attributes = {"verb": right.verb, "group": right.group, "resource": resource}
    attributes |= {"subresource": subresource} if subresource else {}
    attributes |= {"namespace": right.namespace} if right.namespace else {}
    return {"spec": {"resourceAttributes": attributes}}


def manifest(rights: Rights) -> str:
    """Return YAML that gives the missing rights; empty if none is missing.

    A role has all that are needed, since it replaces the one of an earlier manifest.
    """
    return "---\n".join(
        text
        for namespace in dict.fromkeys(right.namespace for right in rights.missing)
        for text in _role(namespace, rights.user, _rules(rights.needed, namespace))
    )


def _rules(rights: Iterable[Right], namespace: str) -> Mapping[tuple[str, str], list[str]]:
    """Return the verbs by group and resource."""
    rules: dict[tuple[str, str], list[str]] = {}
    for right in rights:
        if right.namespace == namespace:
            rules.setdefault((right.group, right.resource), []).append(right.verb)
    return rules


def _role(namespace: str, user: str, rules: Mapping[tuple[str, str], list[str]]) -> tuple[str, str]:
    """Return a role and its binding."""
    kind = "Role" if namespace else "ClusterRole"
    name = "xilinx-fpga-dp-added"
    metadata = f"metadata: {{name: {name}{f', namespace: {namespace}' if namespace else ''}}}\n"
    head = "apiVersion: rbac.authorization.k8s.io/v1\n"
    lines = [
        f'  - {{apiGroups: ["{group}"], resources: [{resource}], verbs: [{", ".join(verbs)}]}}\n'
        for (group, resource), verbs in rules.items()
    ]
    role = f"{head}kind: {kind}\n{metadata}rules:\n{''.join(lines)}"
    account = user.removeprefix(_ACCOUNT).partition(":")
    subject = (
        f"{{kind: ServiceAccount, namespace: {account[0]}, name: {account[2]}}}"
        if user.startswith(_ACCOUNT)
        else f'{{kind: User, apiGroup: rbac.authorization.k8s.io, name: "{user}"}}'
    )
    reference = f"{{apiGroup: rbac.authorization.k8s.io, kind: {kind}, name: {name}}}"
    binding = f"{head}kind: {kind}Binding\n{metadata}roleRef: {reference}\nsubjects:\n  - {subject}\n"
    return role, binding
