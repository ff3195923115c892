"""The documents of claims, against the schema of CDI and what a container needs."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.cdi_schema import validate_spec
from tests.support.factories import device
from xilinx_fpga_dp.dra.documents import (
    Documents,
    Granted,
    Layout,
    PreparedClaim,
    PreparedResult,
    as_entry,
    of_entry,
)

UID = "9ae4d2b4-1e2b-4c7f-8a70-5ad1a5b4d0d1"
LAYOUT = Layout("fpga.xilinx.com", "/cdi", "/plugins/fpga.xilinx.com", expose_mgmt=False, metadata=True)
U200 = "xilinx.com/fpga-u200"
_LABELS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)


def _result(address: str = "0000:65:00.1", request: str = "fpga", **more: Any) -> PreparedResult:
    name = "pci-" + address.replace(":", "-").replace(".", "-")
    return PreparedResult(request, "n1", name, address, more.pop("resource", U200), **more)


def _granted(address: str = "0000:65:00.1", **other: object) -> Granted:
    return Granted((device(address, **other),), (), {"type": {"string": "fpga"}})


def _claim(*results: PreparedResult, pod_claim_name: str | None = None) -> PreparedClaim:
    return PreparedClaim(UID, "ns", "mine", pod_claim_name, results)


def _spec(documents: Documents) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(documents.specs[LAYOUT.spec_path(UID)])
    return spec


def test_device_has_its_nodes_and_request_its_variables() -> None:
    documents = LAYOUT.documents(_claim(_result()), [_granted()])
    kind = "k8s.fpga.xilinx.com/claim"
    assert documents.cdi_ids == (
        (
            f"{kind}={UID}-pci-0000-65-00-1",
            f"{kind}={UID}-request-fpga",
            f"fpga.xilinx.com/metadata={UID}_fpga",
        ),
    )
    nodes, request = _spec(documents)["devices"]
    assert nodes["containerEdits"] == {"deviceNodes": [{"path": "/dev/dri/renderD128", "permissions": "rw"}]}
    [addresses, info] = request["containerEdits"]["env"]
    assert addresses == "PCIDEVICE_XILINX_COM_FPGA_U200=0000:65:00.1"
    assert info.startswith('PCIDEVICE_XILINX_COM_FPGA_U200_INFO={"0000:65:00.1":{"shell":')


def test_variables_of_a_request_list_all_its_devices_sorted() -> None:
    results = (_result("0000:66:00.1"), _result("0000:65:00.1"), _result("0000:67:00.1", "other"))
    documents = LAYOUT.documents(_claim(*results), [_granted(each.address) for each in results])
    variables = {
        each["name"]: each["containerEdits"]["env"][0]
        for each in _spec(documents)["devices"]
        if "env" in each["containerEdits"]
    }
    name = "PCIDEVICE_XILINX_COM_FPGA_U200"
    assert variables == {
        f"{UID}-request-fpga": f"{name}=0000:65:00.1,0000:66:00.1",
        f"{UID}-request-other": f"{name}=0000:67:00.1",
    }
    assert [len(ids) for ids in documents.cdi_ids] == [3, 1, 3], "with the first device of each request"


def test_metadata_is_a_stream_of_both_versions_with_the_subrequest() -> None:
    claim = _claim(_result(request="any/first"), pod_claim_name="mine-in-the-pod")
    documents = LAYOUT.documents(claim, [_granted()])
    path = "/plugins/fpga.xilinx.com/dra-device-metadata/ns_mine/any/metadata.json"
    objects = [json.loads(line) for line in documents.metadata[path].splitlines()]
    assert [each.pop("apiVersion") for each in objects] == [
        "metadata.resource.k8s.io/v1beta1",
        "metadata.resource.k8s.io/v1alpha1",
    ]
    assert objects[0] == objects[1]
    assert objects[0] == {
        "kind": "DeviceMetadata",
        "metadata": {"name": "mine", "namespace": "ns", "uid": UID, "generation": 1},
        "podClaimName": "mine-in-the-pod",
        "requests": [
            {
                "name": "any/first",
                "devices": [
                    {
                        "driver": "fpga.xilinx.com",
                        "pool": "n1",
                        "name": "pci-0000-65-00-1",
                        "attributes": {
                            "type": {"string": "fpga"},
                            "devNode": {"string": "/dev/dri/renderD128"},
                        },
                    }
                ],
            }
        ],
    }
    spec = json.loads(documents.specs[f"/cdi/fpga.xilinx.com_metadata_{UID}_any.json"])
    [mount] = spec["devices"][0]["containerEdits"]["mounts"]
    assert mount["hostPath"] == path
    assert mount["containerPath"] == (
        "/var/run/kubernetes.io/dra-device-attributes/resourceclaimtemplates/mine-in-the-pod/any/"
        "fpga.xilinx.com-metadata.json"
    )


def test_paths_of_a_claim_are_those_of_its_documents() -> None:
    claim = _claim(_result(), _result("0000:66:00.1", "b/c"))
    documents = LAYOUT.documents(claim, [_granted(), _granted("0000:66:00.1")])
    specs, metadata = LAYOUT.paths(claim)
    assert documents.specs.keys() == set(specs)
    assert documents.metadata.keys() == set(metadata)


@given(
    st.lists(st.tuples(_LABELS, st.none() | _LABELS, st.booleans()), min_size=1, max_size=6),
    st.booleans(),
)
def test_documents_are_valid_and_entries_survive(
    requests: list[tuple[str, str | None, bool]], nodeless: bool
) -> None:
    results = tuple(
        _result(
            f"0000:{number:02x}:00.1",
            f"{base}/{sub}" if sub else base,
            share_id=UID if shared else None,
            admin_access=shared,
        )
        for number, (base, sub, shared) in enumerate(requests)
    )
    claim = _claim(*results)
    granted = [_granted(each.address, nodes=() if nodeless else ("/dev/dri/renderD128",)) for each in results]
    documents = LAYOUT.documents(claim, granted)
    names = set()
    for text in documents.specs.values():
        spec = json.loads(text)
        validate_spec(spec)
        names |= {f"{spec['kind']}={each['name']}" for each in spec["devices"]}
    assert names == {each for ids in documents.cdi_ids for each in ids}
    [entry] = json.loads(_spec(documents)["annotations"]["fpga.xilinx.com/claim"]).items()
    assert of_entry(*entry) == claim
    assert of_entry(UID, as_entry(claim)) == claim
