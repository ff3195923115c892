"""What is taken from a claim, and what is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xilinx_fpga_dp.dra.allocation import (
    POD_CLAIM_NAME,
    ClaimRefused,
    Result,
    Toleration,
    allocated,
    checked_name,
    checked_request,
    checked_uid,
)

UID = "9ae4d2b4-1e2b-4c7f-8a70-5ad1a5b4d0d1"
GOOD = {"request": "fpga", "driver": "fpga.xilinx.com", "pool": "n1", "device": "pci-0000-65-00-1"}


def _claim(*results: Any, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "ns", "name": "mine", "uid": UID, **metadata},
        "status": {"allocation": {"devices": {"results": list(results)}}},
    }


def _allocated(claim: Any) -> tuple[Result, ...]:
    return allocated(claim, UID, driver="fpga.xilinx.com", pool="n1").results


def test_own_results_are_taken_and_others_skipped() -> None:
    other = GOOD | {"driver": "gpu.example.com", "pool": "elsewhere"}
    full = GOOD | {
        "request": "any/first",
        "shareID": "1-2",
        "adminAccess": True,
        "tolerations": [{"key": "a", "operator": "Exists"}],
    }
    assert _allocated(_claim(GOOD, other, full)) == (
        Result("fpga", "pci-0000-65-00-1"),
        Result("any/first", "pci-0000-65-00-1", "1-2", True, (Toleration("a", True, "", ""),)),
    )


def test_name_that_the_pod_gives_a_claim_is_taken() -> None:
    claim = _claim(GOOD, annotations={POD_CLAIM_NAME: "fpga"})
    assert allocated(claim, UID, driver="fpga.xilinx.com", pool="n1").pod_claim_name == "fpga"


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        (_claim(GOOD, uid="another"), "was replaced"),
        ({**_claim(), "status": {}}, "is not allocated"),
        ({**_claim(), "status": None}, "is not allocated"),
        (_claim(GOOD | {"pool": "n2"}), "not of this node's pool"),
        (_claim(GOOD | {"device": "../x"}), "name of a device"),
        (_claim(GOOD | {"request": "a/b/c"}), "name of a request"),
        (_claim(GOOD | {"shareID": "../x"}), "uid"),
        (_claim(GOOD, namespace="../x"), "name of a namespace"),
        (_claim(GOOD, name="a/b"), "claim's name"),
        (_claim(GOOD, annotations={POD_CLAIM_NAME: "../x"}), "claim in a pod"),
        (_claim("no result"), "not as the API describes"),
        ({}, "not as the API describes"),
    ],
)
def test_other_claims_are_refused_with_a_sentence(claim: dict[str, Any], why: str) -> None:
    with pytest.raises(ClaimRefused, match=why):
        _allocated(claim)


@given(st.text(max_size=80))
def test_checked_texts_are_safe_in_a_path(text: str) -> None:
    for check in (checked_uid, checked_name):
        try:
            found = check(text)
        except ClaimRefused:
            continue
        assert "/" not in found
        assert not found.startswith(".")
        assert found.isascii()
    try:
        base, _, sub = checked_request(text).partition("/")
    except ClaimRefused:
        return
    assert base
    assert "/" not in sub
    assert "." not in base + sub


@pytest.mark.parametrize(
    ("toleration", "covers"),
    [
        (Toleration("", True, "", ""), True),
        (Toleration("d/offline", True, "", ""), True),
        (Toleration("d/offline", True, "", "NoSchedule"), True),
        (Toleration("d/offline", True, "", "NoExecute"), False),
        (Toleration("d/firewall", True, "", ""), False),
        (Toleration("d/offline", False, "", ""), True),
        (Toleration("d/offline", False, "x", ""), False),
        (Toleration("", False, "", ""), False),
    ],
)
def test_toleration_covers_a_taint_as_the_scheduler_sees_it(toleration: Toleration, covers: bool) -> None:
    assert toleration.covers("d/offline", "NoSchedule") is covers
