"""What a ResourceClaim's status says is to be prepared on this node. Pure.

Nothing of a claim reaches a path or a name unchecked: names are checked here by the rules of the API server,
which a claim has passed, since another server may stand behind the connection.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

POD_CLAIM_NAME: Final = "resource.kubernetes.io/pod-claim-name"
"""The annotation of a claim made of a template: the name that the pod gives it."""

_LABEL: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9](?:[-.a-z0-9]{0,251}[a-z0-9])?")
_UID: Final = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9]{0,62}[A-Za-z0-9])?")


class ClaimRefused(Exception):  # noqa: N818 - an answer, not a fault
    """Why a claim can't be prepared: one sentence, which kubelet puts into an event of the pod.

    Kubelet takes an empty one for success.
    """

    def __init__(self, sentence: str) -> None:
        if not sentence:
            raise ValueError("a refusal needs a sentence")
        super().__init__(sentence)


@dataclass(frozen=True, slots=True)
class Toleration:
    """A taint, or all of a key, that a request accepts."""

    key: str  # empty: any
    exists: bool  # of any value; else of this one
    value: str
    effect: str  # empty: any

    def covers(self, key: str, effect: str) -> bool:
        """Whether it accepts our taint, which has no value."""
        return (
            self.key in ("", key)
            and self.effect in ("", effect)
            and (self.exists or (self.key == key and not self.value))
        )


@dataclass(frozen=True, slots=True)
class Result:
    """One allocated device."""

    request: str  # ``request`` or ``request/subrequest``
    device: str
    share_id: str | None = None
    admin_access: bool = False
    tolerations: tuple[Toleration, ...] = ()


@dataclass(frozen=True, slots=True)
class Allocated:
    """A claim with the devices that it has of this driver on this node."""

    uid: str
    namespace: str
    name: str
    pod_claim_name: str | None
    results: tuple[Result, ...]
    pods: tuple[str, ...] = ()  # the uids of those that it is reserved for


def checked_uid(uid: str) -> str:
    """Return a uid that can be part of a file name, or refuse it."""
    if not _UID.fullmatch(uid):
        raise ClaimRefused(f"a claim's uid can't be {uid!r}")
    return uid


def checked_name(name: str) -> str:
    """Return a name of a claim that can be part of a path, or refuse it."""
    if not _SUBDOMAIN.fullmatch(name) or ".." in name:
        raise ClaimRefused(f"a claim's name can't be {name!r}")
    return name


def checked_label(name: str, what: str) -> str:
    """Return a name that is a DNS label, as a namespace's and a device's are, or refuse it."""
    if not _LABEL.fullmatch(name):
        raise ClaimRefused(f"the name of a {what} can't be {name!r}")
    return name


def checked_request(request: str) -> str:
    """Return the name of a request, with a subrequest or without, or refuse it."""
    base, slash, sub = request.partition("/")
    if not _LABEL.fullmatch(base) or (slash and not _LABEL.fullmatch(sub)):
        raise ClaimRefused(f"the name of a request can't be {request!r}")
    return request


def allocated(claim: Mapping[str, Any], uid: str, *, driver: str, pool: str) -> Allocated:
    """Return what a claim, as the API server shows it, has of this driver on this node.

    Results of other drivers are skipped.

    Args:
        claim: the ResourceClaim.
        uid: of the claim that kubelet means.
        driver: the name of the driver.
        pool: the name of this node's pool.

    Raises:
        ClaimRefused: it is another claim, is not allocated, or has devices of another node's pool.
    """
    try:
        metadata = claim["metadata"]
        namespace, name = checked_label(metadata["namespace"], "namespace"), checked_name(metadata["name"])
        if metadata["uid"] != checked_uid(uid):
            raise ClaimRefused(
                f"the ResourceClaim {namespace}/{name} was replaced by another one of its name"
            )
        status = claim.get("status") or {}
        allocation = status.get("allocation")
        if allocation is None:
            raise ClaimRefused(f"the ResourceClaim {namespace}/{name} is not allocated")
        results = (allocation.get("devices") or {}).get("results") or []
        own = [_result(each, pool) for each in results if each["driver"] == driver]
        annotation = (metadata.get("annotations") or {}).get(POD_CLAIM_NAME)
        annotation = checked_label(annotation, "claim in a pod") if annotation else None
    except (KeyError, TypeError, AttributeError) as error:
        raise _odd(error) from None
    return Allocated(uid, namespace, name, annotation, tuple(own), pods_of(claim, uid))


def pods_of(claim: Mapping[str, Any], uid: str) -> tuple[str, ...]:
    """Return the uids of the pods that a claim is reserved for; none if it is another one of its name.

    Raises:
        ClaimRefused: it is not as the API describes it.
    """
    try:
        consumers = (claim.get("status") or {}).get("reservedFor") or ()
        if claim["metadata"]["uid"] != uid:
            return ()
        return tuple(checked_uid(each["uid"]) for each in consumers if each["resource"] == "pods")
    except (KeyError, TypeError, AttributeError) as error:
        raise _odd(error) from None


def _odd(error: Exception) -> ClaimRefused:
    return ClaimRefused(f"the ResourceClaim is not as the API describes it: {error!r}")


def _result(result: Mapping[str, Any], pool: str) -> Result:
    device, share = checked_label(result["device"], "device"), result.get("shareID")
    if result["pool"] != pool:
        raise ClaimRefused(f"device {device} is of pool {result['pool']!r}, not of this node's pool {pool!r}")
    return Result(
        checked_request(result["request"]),
        device,
        checked_uid(share) if share else None,
        bool(result.get("adminAccess")),
        tuple(_tolerations(result.get("tolerations") or ())),
    )


def _tolerations(tolerations: Iterable[Mapping[str, Any]]) -> Iterable[Toleration]:
    for each in tolerations:
        yield Toleration(
            each.get("key") or "",
            each.get("operator") == "Exists",
            each.get("value") or "",
            each.get("effect") or "",
        )
