"""``diagnose``: its checks, on findings that a sample node cannot produce."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from xilinx_fpga_dp.cli.diagnose import checks, collect
from xilinx_fpga_dp.cli.diagnose.checks import Findings, Level, Running
from xilinx_fpga_dp.cli.diagnose.containerd import Containerd
from xilinx_fpga_dp.model import Device, LeftOut, Offer, Offers, Reason, Shell, Unit


class TestChecks:
    healthy = Findings(
        functions=3,
        scan=Offers({}),
        drivers={},
        nodes={},
        socket_dir="/d",
        socket_dir_problem=None,
        kubelet_problem=None,
        podresources="/p",
        podresources_problem=None,
        instances=1,
    )

    def offer(self, **changes: object) -> Offers:
        device = Device("0000:11:00.1", Shell("xilinx_u200", "1", None), "u200", "xocl", **changes)  # type: ignore[arg-type]
        return Offers({"x.com/a": Offer("x.com/a", (Unit(device.address, (device,)),))})

    @pytest.mark.parametrize("reason", Reason)
    def test_every_reason_has_a_remedy(self, reason: Reason) -> None:
        [line] = checks.cards(replace(self.healthy, scan=self.offer(reason=reason)))
        assert line.level is (Level.FAIL if reason is Reason.NO_NODE else Level.WARN)
        assert reason in line.message.partition("; ")[0]
        assert line.message.partition("; ")[2]

    def test_healthy_card_with_a_warning_is_a_warning(self) -> None:
        text = "it booted its backup image; program it again"
        lines = checks.cards(replace(self.healthy, scan=self.offer(warning=text)))
        assert [(line.level, line.check) for line in lines] == [
            (Level.OK, "0000:11:00.1"),
            (Level.WARN, "0000:11:00.1"),
        ]

    @pytest.mark.parametrize(
        ("board", "driver", "address", "helps"),
        [
            ("u200", "xocl", "0000:11:00.1", True),
            ("u30", "xocl", "0000:11:00.1", True),
            ("aws-vu9p-f1", "xocl", "0000:00:1d.0", False),
            ("u30", "xocl", "0000:00:1e.0", False),  # VT1
            ("v80", "ami", "0000:11:00.0", False),
            ("zcu102", "zocl", "axi:zyxclmm_drm", False),
        ],
    )
    def test_no_reset_is_advised_if_harmful_or_unavailable(
        self, board: str, driver: str, address: str, helps: bool
    ) -> None:
        for reason in (Reason.BAD_STATE, Reason.UNRESPONSIVE):
            device = Device(address, Shell(board, "1", None), board, driver, reason=reason)
            offer = Offer("x.com/a", (Unit(address, (device,)),))
            [line] = checks.cards(replace(self.healthy, scan=Offers({"x.com/a": offer})))
            assert ("xbutil reset" in line.message and "does not work" not in line.message) == helps
            assert "mpd" not in line.message or board.startswith("aws") or board == "u30"

    def test_denial_under_selinux_has_a_remedy(self) -> None:
        denied = OSError(errno.EACCES, "Permission denied")
        assert list(checks.selinux(replace(self.healthy, kubelet_problem=denied))) == []
        [ok] = checks.selinux(replace(self.healthy, selinux=True))
        [warn] = checks.selinux(replace(self.healthy, selinux=True, kubelet_problem=denied))
        assert (ok.level, warn.level) == (Level.OK, Level.WARN)

    @pytest.mark.parametrize(
        ("domain", "kubelet", "spec", "advised"),
        [
            (None, True, False, "seLinuxOptions type container_device_plugin_t"),
            ("container_t", True, False, "seLinuxOptions type container_device_plugin_t"),
            ("container_device_plugin_t", True, False, "policy module"),
            ("container_device_plugin_t", False, True, "policy module"),
            ("container_t", True, True, "policy module"),
            (None, False, True, "policy module"),
            ("spc_t", True, True, "the owner and mode"),
        ],
    )
    def test_selinux_type_without_more_rights_is_not_advised(
        self, domain: str | None, kubelet: bool, spec: bool, advised: str
    ) -> None:
        denied = OSError(errno.EACCES, "Permission denied")
        findings = replace(self.healthy, selinux=True, selinux_type=domain)
        findings = replace(findings, kubelet_problem=denied if kubelet else None)
        [warn] = checks.selinux(replace(findings, outputs={"CDI_DIR": ("/cdi", denied if spec else None)}))
        assert advised in warn.message
        assert ("seLinuxOptions type spc_t" in warn.message) == (advised == "policy module")
        assert (f" refused to {domain};" in warn.message) == (domain is not None)
        assert ("neither CDI specs" in warn.message) == (spec and domain != "spc_t")

    @pytest.mark.parametrize(
        ("every", "dri", "nodes", "switch"),
        [
            (False, False, ["/dev/dri/renderD128"], "container_use_dri_devices"),
            (False, None, ["/dev/dri/renderD128"], "container_use_devices"),
            (False, False, ["/dev/ami1", "/dev/dri/renderD128"], "container_use_devices"),
            (False, True, ["/dev/ami1", "/dev/dri/renderD128"], "container_use_devices"),
            (False, True, ["/dev/dri/renderD128"], None),
            (True, False, ["/dev/ami1"], None),
            (None, False, ["/dev/dri/renderD128"], None),
            (False, False, [], None),
        ],
    )
    def test_narrowest_switch_of_selinux_is_advised(
        self, every: bool | None, dri: bool | None, nodes: list[str], switch: str | None
    ) -> None:
        switches = {"container_use_devices": every, "container_use_dri_devices": dri}
        findings = replace(
            self.healthy,
            selinux=True,
            selinux_switches={name: on for name, on in switches.items() if on is not None},
            nodes=dict.fromkeys(nodes, os.stat("/dev/null")),
        )
        lines = [line for line in checks.selinux(findings) if line.level is Level.WARN]
        assert [f"setsebool -P {switch} on" in line.message for line in lines] == ([True] if switch else [])
        assert not list(checks.selinux(replace(findings, selinux=False)))

    @pytest.mark.parametrize("directory", ["/var/run/cdi", "/run/cdi/"])
    @pytest.mark.parametrize("spec_dirs", [("/etc/cdi", "/var/run/cdi"), ("/run/cdi",), None])
    def test_spec_directory_is_found_by_either_path(
        self, directory: str, spec_dirs: tuple[str, ...] | None
    ) -> None:
        findings = replace(self.healthy, outputs={"CDI_DIR": (directory, None)})
        [line] = checks.containerd(replace(findings, containerd=Containerd("/c", True, spec_dirs)))
        assert line.level is Level.OK

    @pytest.mark.parametrize("spec_dirs", [("/etc/cdi", "/var/run/cdi"), None])
    def test_spec_directory_that_containerd_does_not_read_is_a_warning(
        self, spec_dirs: tuple[str, ...] | None
    ) -> None:
        findings = replace(self.healthy, outputs={"CDI_DIR": ("/opt/cdi", None)})
        [line] = checks.containerd(replace(findings, containerd=Containerd("/c", True, spec_dirs)))
        assert line.level is Level.WARN
        assert "set CDI_DIR to one of them (/etc/cdi, /var/run/cdi)" in line.message

    @pytest.mark.parametrize(("registry", "keeps"), [(None, True), ("/r", False)])
    def test_other_strategy_is_no_remedy_with_dra(self, registry: str | None, keeps: bool) -> None:
        findings = replace(self.healthy, registry=registry, containerd=Containerd("/c", False, None))
        [line] = checks.containerd(findings)
        assert line.message.endswith("keep DEVICE_STRATEGY=device-specs") == keeps

    @pytest.mark.parametrize(
        ("instances", "answers", "level", "said"),
        [
            (1, False, Level.OK, "it runs"),
            (0, True, Level.OK, "it runs"),
            (0, False, Level.OK, "it does not run"),
            (OSError(errno.ENOENT, "No such file or directory"), False, Level.OK, "it does not run"),
            (OSError(errno.EACCES, "denied"), True, Level.OK, "it runs"),
            (OSError(errno.EACCES, "denied"), False, Level.WARN, "it is not known"),
            (OSError(errno.ETIMEDOUT, "late"), False, Level.WARN, "it is not known"),
        ],
    )
    def test_service_does_not_run_only_where_that_is_known(
        self, instances: int | OSError, answers: bool, level: Level, said: str
    ) -> None:
        running = Running(None, {}) if answers else None
        [line] = checks.instances(replace(self.healthy, instances=instances, running=running))
        assert (line.level, line.message.startswith(said)) == (level, True)

    @pytest.mark.parametrize(
        ("label", "domain"),
        [
            (b"system_u:system_r:container_device_plugin_t:s0:c1,c2\0", "container_device_plugin_t"),
            (b"unconfined_u:unconfined_r:unconfined_t\n", "unconfined_t"),
            (b"cri-containerd.apparmor.d (enforce)\n", None),
            (b"unconfined\n", None),
            (b"\xff\0", None),
            (b"", None),
        ],
    )
    def test_type_is_read_from_an_selinux_label(
        self, label: bytes, domain: str | None, tmp_path: Path
    ) -> None:
        (tmp_path / "current").write_bytes(label)
        assert collect._selinux_type(f"{tmp_path}/current") == domain

    def test_device_node_without_permission_is_reported(self) -> None:
        nodes: dict[str, os.stat_result | OSError] = {
            "/dev/dri/renderD128": OSError(errno.EACCES, "Permission denied"),
            "/dev/x": os.stat_result((0o20644, 0, 0, 1, 0, 44, 0, 0, 0, 0)),
        }
        fail, warn = checks.device_nodes(replace(self.healthy, nodes=nodes))
        assert (fail.level, warn.level) == (Level.FAIL, Level.WARN)
        assert "supplementalGroups" not in warn.message, "the group cannot write it either"

    def test_text_from_a_card_adds_no_line(self) -> None:
        scan = Offers({}, (LeftOut("0000:11:00.1", "shell\nok    kubelet: it answers\x1b[2J"),))
        text = checks.as_text(checks.check(replace(self.healthy, scan=scan)))
        assert "\x1b" not in text
        assert sum(line.startswith("ok    kubelet") for line in text.splitlines()) == 1

    def test_hanging_directory_is_reported(self) -> None:
        hung = OSError(errno.ETIMEDOUT, "no answer for 3 s")
        findings = replace(self.healthy, functions=hung, scan=hung, drivers=hung)
        lines = checks.check(replace(findings, socket_dir_problem=hung, podresources_problem=hung))
        assert {line.check for line in lines if line.level is Level.FAIL} == {"sysfs", "socket directory"}
