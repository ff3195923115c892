"""What Allocate would answer, and why: for ``explain``."""

from collections.abc import Sequence
from typing import Any

from xilinx_fpga_dp.model import Grant, Offer, Offers
from xilinx_fpga_dp.resources.allocator import Allocator, Answer, Code, Refusal


async def answer_for(offers: Offers, grants: Allocator, ids: Sequence[str]) -> tuple[Answer, Grant]:
    """What kubelet would be answered for these ids, of the resource that offers the first of them.

    Raises:
        Refusal: as Allocate would refuse.
    """
    answer = await grants.answer(_offer(offers, ids), ids)
    return answer, grants.grant(answer)


def _offer(offers: Offers, ids: Sequence[str]) -> Offer:
    for offer in offers.by_resource.values():
        if ids and any(unit.id == ids[0] for unit in offer.units):
            return offer
    for entry in offers.left_out:
        if ids and ids[0] == entry.function:
            raise Refusal(Code.NOT_FOUND, f"{ids[0]} is not offered: {entry.reason}")
    known = [unit.id for offer in offers.by_resource.values() for unit in offer.units]
    raise Refusal(
        Code.NOT_FOUND,
        f"device {ids[0]!r} is not offered on this node ({', '.join(known) or 'which has none'})"
        if ids
        else "no device id was asked for",
    )


def as_document(grant: Grant) -> dict[str, Any]:
    """The answer as in kubelet's API."""
    return {
        "answer": {
            "envs": dict(grant.envs),
            "mounts": [
                {"container_path": path, "host_path": path, "read_only": True} for path in grant.mounts
            ],
            "devices": [
                {"container_path": node, "host_path": node, "permissions": "rw"} for node in grant.nodes
            ],
            "cdi_devices": [{"name": name} for name in grant.cdi_devices],
        }
    }


def as_refusal(refusal: Refusal) -> dict[str, Any]:
    """A refusal as a document."""
    return {"refused": {"code": refusal.code.name, "message": refusal.sentence}}


def as_text(answer: Answer, grant: Grant) -> str:
    """The answer for people, with why."""
    lines = [f"A container that asks for this gets, as {answer.resource}:"]
    for device in answer.devices:
        serial = f", serial {device.serial}" if device.serial else ""
        lines.append(f"  {device.address}: {device.board} with {device.shell.vbnv}{serial}, Healthy")
    lines += [f"  device {node} (rw)" for node in grant.nodes]
    lines += [f"  CDI device {name}" for name in grant.cdi_devices]
    lines += [f"  mount {path} (read-only)" for path in grant.mounts]
    lines += [f"  {name}={value}" for name, value in sorted(grant.envs.items())]
    return "\n".join(lines)
