"""containerd's configuration: whether CDI names have an effect, and where it looks for specs.

cri/config.md in containerd's documentation: ``enable_cdi`` is off by default in 1.7 and on since 2.0. A
file of version 3 is of 2.0 or newer; those read older files too.
"""

import glob
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from xilinx_fpga_dp.hostfiles import ordinary_file

# Those of distributions come first: such a node may have another containerd, for docker.
_PATHS = (
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
    "/var/snap/microk8s/current/args/containerd.toml",
    "/etc/k0s/containerd.toml",
    "/etc/containerd/config.toml",
)
DEFAULT_SPEC_DIRS = ("/etc/cdi", "/var/run/cdi")
"""Where it looks for CDI specs if its configuration does not say."""

_SECTIONS = {1: "cri", 2: "io.containerd.grpc.v1.cri"}  # by version
_NEWEST_SECTION = "io.containerd.cri.v1.runtime"  # of version 3 and newer
_MAX_BYTES = 262144
_MAX_IMPORTS = 64


@dataclass(frozen=True, slots=True)
class Containerd:
    """What the configuration says of CDI."""

    path: str  # of the file that decides, on the host
    cdi: bool | None  # None if no file sets it and the release decides
    spec_dirs: tuple[str, ...] | None  # None for the default


def read(host: str) -> Containerd | None:
    """Read the configuration below a host's root; None if there is none that kubelet uses. Blocks.

    Raises:
        OSError, ValueError: a file cannot be read, or is not valid.
    """
    for path in _PATHS:
        if os.path.lexists(host + path):
            return merged(list(_documents(host, path)))
    return None


def merged(documents: Sequence[tuple[str, Mapping[str, object]]]) -> Containerd | None:
    """Merge a file, which comes first, and its imports, each named by its path; None if CRI is disabled."""
    path, main = documents[0]
    cdi, spec_dirs = (True if _version(main) > max(_SECTIONS) else None), None
    for name, document in documents:
        if {*_SECTIONS.values(), _NEWEST_SECTION} & set(_texts(document.get("disabled_plugins"))):
            return None
        plugins = document.get("plugins")
        section = plugins.get(_section(document)) if isinstance(plugins, dict) else None
        if not isinstance(section, dict):
            continue
        if isinstance(chosen := section.get("enable_cdi"), bool):
            path, cdi = name, chosen
        spec_dirs = _texts(section.get("cdi_spec_dirs")) or spec_dirs
    return Containerd(path, cdi, spec_dirs)


def _version(document: Mapping[str, object]) -> int:
    version = document.get("version")
    return version if isinstance(version, int) else 1


def _section(document: Mapping[str, object]) -> str:
    return _SECTIONS.get(_version(document), _NEWEST_SECTION)


def _texts(value: object) -> tuple[str, ...]:
    """Return a list's texts; empty if it is no list."""
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def _documents(host: str, path: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    main = _load(host + path)
    yield path, main
    for pattern in _texts(main.get("imports")):
        absolute = os.path.join(os.path.dirname(path), pattern)
        for found in sorted(glob.glob(glob.escape(host) + absolute))[:_MAX_IMPORTS]:
            yield found.removeprefix(host), _load(found)


def _load(path: str) -> Mapping[str, object]:
    return tomllib.loads(ordinary_file.read(path, _MAX_BYTES).decode())
