"""Container images without a registry: a static program in a docker archive."""

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from .build import Binaries

PAUSE = "localhost/e2e-pause:1"
BUSYBOX = "localhost/e2e-busybox:1"


def write_images(binaries: Binaries, folder: Path) -> list[Path]:
    """Write the archives of the pause and the busybox image; `ctr images import` reads them."""
    pause = folder / "pause.tar"
    _write_archive(pause, PAUSE, _layer({"pause": binaries.pause}, links=()), ["/pause"])
    busybox = folder / "busybox.tar"
    layer = _layer({"bin/busybox": binaries.busybox}, links=_applets(binaries.busybox))
    _write_archive(busybox, BUSYBOX, layer, ["/bin/sh"])
    return [pause, busybox]


def write_program_image(
    target: Path, programs: Mapping[str, Path], entrypoint: Sequence[str], user: str = "0"
) -> None:
    """Write the archive of an image of static programs in /bin, with all of busybox if it is one of them."""
    links = _applets(programs["busybox"]) if "busybox" in programs else []
    layer = _layer({f"bin/{name}": source for name, source in programs.items()}, links)
    _write_archive(target, "localhost/program:1", layer, entrypoint, user)


def _applets(busybox: Path) -> list[str]:
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, timeout=10, check=True)
    return [name for name in listed.stdout.split() if name != "busybox"]


def _layer(programs: dict[str, Path], links: Sequence[str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for folder in ("bin", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, source in programs.items():
            _add(tar, name, source.read_bytes(), mode=0o755)
        for name in links:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return packed.getvalue()


def _write_archive(target: Path, name: str, layer: bytes, entrypoint: Sequence[str], user: str = "0") -> None:
    """Write the layout of `docker save`: the layer, its config and a manifest.json with both names."""
    config = json.dumps(
        {
            "architecture": {"aarch64": "arm64"}.get(platform.machine(), "amd64"),
            "os": "linux",
            "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin"], "User": user},
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"],
            },
            "history": [],
        }
    ).encode()
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(target, "w") as tar:
        _add(tar, "layer.tar", layer)
        _add(tar, "config.json", config)
        _add(tar, "manifest.json", json.dumps(manifest).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
