"""containerd's configuration, as `diagnose` reads it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xilinx_fpga_dp.cli.diagnose.containerd import Containerd, merged, read

V2 = 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n'
V3 = "version = 3\n[plugins.'io.containerd.cri.v1.runtime']\n"


def written(root: Path, name: str, text: str) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("text", "cdi", "directories"),
    [
        ("", None, None),
        ("version = 2", None, None),
        (V2 + "enable_cdi = true", True, None),
        (V2 + "enable_cdi = false", False, None),
        (V2 + 'enable_cdi = "yes"', None, None),
        ("version = 3", True, None),
        ("version = 4", True, None),
        (V3 + "enable_cdi = false", False, None),
        (V3 + 'cdi_spec_dirs = ["/etc/cdi", "/run/cdi"]', True, ("/etc/cdi", "/run/cdi")),
        (V3 + "cdi_spec_dirs = [1]", True, None),
        # The section of another version has no effect.
        ("version = 3\n[plugins.'io.containerd.grpc.v1.cri']\nenable_cdi = false", True, None),
        ("[plugins.cri]\nenable_cdi = true", True, None),
        ("version = 2\nplugins = 1", None, None),
        ('version = "3"', None, None),
    ],
)
def test_cdi_is_read_by_the_version(
    text: str, cdi: bool | None, directories: tuple[str, ...] | None, tmp_path: Path
) -> None:
    written(tmp_path, "etc/containerd/config.toml", text)
    assert read(str(tmp_path)) == Containerd("/etc/containerd/config.toml", cdi, directories)


@pytest.mark.parametrize("name", ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"])
def test_containerd_of_docker_is_not_the_runtime_of_kubelet(name: str, tmp_path: Path) -> None:
    written(tmp_path, "etc/containerd/config.toml", f'disabled_plugins = ["{name}"]')
    assert read(str(tmp_path)) is None


def test_imported_files_take_precedence_in_order(tmp_path: Path) -> None:
    imports = 'imports = ["conf.d/*.toml", "/opt/last.toml", "/no/such/*.toml"]\n'
    written(tmp_path, "etc/containerd/config.toml", imports + V2 + "enable_cdi = true")
    assert read(str(tmp_path)) == Containerd("/etc/containerd/config.toml", True, None)
    written(tmp_path, "etc/containerd/conf.d/1.toml", V2 + "enable_cdi = true")
    written(tmp_path, "etc/containerd/conf.d/2.toml", V2 + "enable_cdi = false")
    assert read(str(tmp_path)) == Containerd("/etc/containerd/conf.d/2.toml", False, None)
    written(tmp_path, "opt/last.toml", V3 + 'enable_cdi = true\ncdi_spec_dirs = ["/x"]')
    assert read(str(tmp_path)) == Containerd("/opt/last.toml", True, ("/x",))


def test_configuration_of_the_distribution_comes_first(tmp_path: Path) -> None:
    written(tmp_path, "etc/containerd/config.toml", V2 + "enable_cdi = true")
    written(tmp_path, "var/lib/rancher/rke2/agent/etc/containerd/config.toml", V3 + "enable_cdi = false")
    found = read(str(tmp_path))
    assert found is not None
    assert (found.cdi, "rke2" in found.path) == (False, True)


def test_node_without_a_configuration_has_none(tmp_path: Path) -> None:
    assert read(str(tmp_path)) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["version", "plugins", "imports", "cri", "io.containerd.grpc.v1.cri", "enable_cdi"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["version", "plugins", "imports", "disabled_plugins"]), VALUES))
def test_any_document_is_read(document: dict[str, object]) -> None:
    found = merged([("/config.toml", document)])
    assert found is None or found.cdi in (True, False, None)
