"""The control groups of pods, by the names that kubelet gives them."""

import shutil
from pathlib import Path

import pytest

from xilinx_fpga_dp.kubelet.pod_cgroups import PodCgroups

UID = "6a00dbc2-0a46-4c8e-9cf7-9123568e000d"
OTHER = "7822c7b3-9266-4127-8b45-2313017f210d"
UNDERSCORES = UID.replace("-", "_")

GROUPS = {
    "cgroupfs, guaranteed": f"kubepods/pod{UID}",
    "cgroupfs, besteffort": f"kubepods/besteffort/pod{UID}",
    "systemd, guaranteed": f"kubepods.slice/kubepods-pod{UNDERSCORES}.slice",
    "systemd, burstable": (
        f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORES}.slice"
    ),
    "own root": f"node/kubepods/burstable/pod{UID}",
    "own root, systemd": (
        "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/"
        f"kubelet-kubepods-besteffort-pod{UNDERSCORES}.slice"
    ),
}


# Of each version: its root, and a file with its content while there are processes and afterwards.
VERSIONS = {
    "version 2": (".", "cgroup.events", ("populated 1\nfrozen 0\n", "populated 0\nfrozen 0\n")),
    "version 1": ("pids", "pids.current", ("3\n", "0\n")),
}


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("version", VERSIONS)
def test_pod_runs_while_its_group_has_processes(tmp_path: Path, group: str, version: str) -> None:
    root, file, (full, empty) = VERSIONS[version]
    folder = tmp_path / "fs" / "cgroup" / root / group
    folder.mkdir(parents=True)
    pods = PodCgroups(str(tmp_path))
    assert pods.running({UID, OTHER}) == set(), "a group that is being made or removed"
    (folder / file).write_text(full)
    assert pods.running({UID, OTHER}) == {UID}
    assert pods.running({OTHER}) == set()
    (folder / file).write_text(empty)
    assert pods.running({UID}) == set()


def test_no_pod_runs_without_control_groups(tmp_path: Path) -> None:
    assert PodCgroups(str(tmp_path)).running({UID}) == set()


def test_group_of_all_pods_is_found_where_it_is_now(tmp_path: Path) -> None:
    pods = PodCgroups(str(tmp_path))
    for root in ("kubepods", "node/kubepods"):
        folder = tmp_path / "fs" / "cgroup" / root / f"pod{UID}"
        folder.mkdir(parents=True)
        (folder / "cgroup.events").write_text("populated 1\n")
        assert pods.running({UID}) == {UID}
        shutil.rmtree(folder.parent)
        assert pods.running({UID}) == set()
