"""The checkpoint file: what is kept, and what happens to a broken one."""

import dataclasses
import json
from pathlib import Path

import pytest

from xilinx_fpga_dp.dra.checkpoint import Cancelled, Checkpoint
from xilinx_fpga_dp.dra.documents import PreparedClaim, PreparedResult

CLAIM = PreparedClaim(
    "1-2", "ns", "mine", None, (PreparedResult("fpga", "n1", "pci-0000-65-00-1", "0000:65:00.1", "x.com/a"),)
)


def _checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(str(folder), dict)


def _write(folder: Path, **claims: PreparedClaim) -> None:
    checkpoint = _checkpoint(folder)
    with checkpoint.locked():
        checkpoint.write(checkpoint.read(), claims)


def test_claims_are_read_back_by_another_instance(tmp_path: Path) -> None:
    _write(tmp_path, **{CLAIM.uid: CLAIM})
    assert _checkpoint(tmp_path).read().claims == {CLAIM.uid: CLAIM}
    document = json.loads((tmp_path / "checkpoint.json").read_text())
    assert document.keys() == {"version", "bootID", "claims"}
    assert document["bootID"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_claim_of_a_version_that_kept_no_addresses_and_pods_is_kept(tmp_path: Path) -> None:
    own = dataclasses.replace(CLAIM.results[0], addresses=("0000:65:00.1", "0000:66:00.1"))
    new = dataclasses.replace(CLAIM, uid="3-4", results=(own,), pods=("pod-1",))
    _write(tmp_path, **{CLAIM.uid: CLAIM, new.uid: new})
    entries = json.loads((tmp_path / "checkpoint.json").read_text())["claims"]
    assert ["addresses" in entries[each]["results"][0] for each in (CLAIM.uid, new.uid)] == [False, True]
    assert ["pods" in entries[each] for each in (CLAIM.uid, new.uid)] == [False, True]
    assert _checkpoint(tmp_path).read().claims == {CLAIM.uid: CLAIM, new.uid: new}
    assert CLAIM.results[0].holds == ("0000:65:00.1",)


def test_file_is_written_only_where_it_differs(tmp_path: Path) -> None:
    _write(tmp_path, **{CLAIM.uid: CLAIM})
    before = (tmp_path / "checkpoint.json").stat().st_ino
    _write(tmp_path, **{CLAIM.uid: CLAIM})
    assert (tmp_path / "checkpoint.json").stat().st_ino == before


def test_fields_of_a_newer_version_are_kept(tmp_path: Path) -> None:
    _write(tmp_path, **{CLAIM.uid: CLAIM})
    path = tmp_path / "checkpoint.json"
    document = json.loads(path.read_text())
    document["later"] = 1
    document["claims"][CLAIM.uid]["later"] = 2
    path.write_text(json.dumps(document))
    other = PreparedClaim("3-4", "ns", "other", "in-the-pod", CLAIM.results)
    _write(tmp_path, **{CLAIM.uid: CLAIM, other.uid: other})
    document = json.loads(path.read_text())
    assert document["later"] == 1
    assert document["claims"][CLAIM.uid]["later"] == 2
    assert document["claims"][other.uid]["podClaimName"] == "in-the-pod"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 2, "claims": {}}',
        '{"version": 1}',
        '{"version": 1, "claims": {"../x": {"namespace": "a", "name": "b", "results": []}}}',
        '{"version": 1, "claims": {"1": {"namespace": "../a", "name": "b", "results": []}}}',
        "\x00\x01",
    ],
)
def test_unreadable_file_is_set_aside_and_the_rest_tells(tmp_path: Path, content: str) -> None:
    path = tmp_path / "checkpoint.json"
    path.write_text(content)
    checkpoint = Checkpoint(str(tmp_path), lambda: {CLAIM.uid: CLAIM})
    with checkpoint.locked():
        assert checkpoint.read().claims == {CLAIM.uid: CLAIM}
    assert (tmp_path / "checkpoint.json.bad").read_text() == content
    assert _checkpoint(tmp_path).read().claims == {CLAIM.uid: CLAIM}


def test_lock_is_between_instances_and_a_wait_for_it_can_be_cancelled(tmp_path: Path) -> None:
    with _checkpoint(tmp_path).locked():
        asked = iter([False, False, True])
        with pytest.raises(Cancelled), _checkpoint(tmp_path).locked(lambda: next(asked)):
            pass
    with _checkpoint(tmp_path).locked():
        pass


def test_claims_of_a_file_that_is_gone_are_told_by_the_rest(tmp_path: Path) -> None:
    checkpoint = Checkpoint(str(tmp_path), lambda: {CLAIM.uid: CLAIM})
    with checkpoint.locked():
        assert checkpoint.read().claims == {CLAIM.uid: CLAIM}
    assert _checkpoint(tmp_path).read().claims == {CLAIM.uid: CLAIM}
