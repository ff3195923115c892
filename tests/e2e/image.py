"""The project's image, built with `make image` on a base image created here, without an image registry.

Downloads (a Debian with Python, wheels) are cached; the image is built for each run.
"""

import json
import logging
import os
import re
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .build import HERE, BuildError, cache_dir, call

log = logging.getLogger(__name__)

PROJECT = HERE.parents[1]
PACKAGES = {"buildah": "buildah", "debootstrap": "debootstrap"}
BASE = "localhost/e2e-base:1"
BUILD_LIMIT = 600.0

# Left out of the base image: the lists of apt and documentation.
_LEFT_OUT = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man")


@dataclass(frozen=True)
class Image:
    """An image in an archive that containerd imports."""

    name: str
    archive: Path
    config: Mapping[str, Any]  # as OCI has it
    size: int  # bytes of its layers, unpacked
    own_size: int  # of those above the base


def build_image(name: str, folder: Path) -> Image:
    """Build the image with a name and write its archive to a directory; raises BuildError."""
    archive = folder / "image.tar"
    with builder(folder) as environment:
        env = {**os.environ, **environment}
        call(["make", "image", f"IMAGE={name}"], cwd=PROJECT, env=env, limit=BUILD_LIMIT)
        push = ["buildah", "push", "--quiet", name, f"docker-archive:{archive}:{name}"]
        call(push, env=env, limit=BUILD_LIMIT)
    return _read(name, archive)


@contextmanager
def builder(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the environment in which `make image` and buildah work as the documentation has them.

    No registry and no package index is reachable: BASE and IMAGE_ARGS, which the documentation describes,
    name a base image made here and a directory of wheels. buildah's store is a directory in `folder`, which
    needs neither overlayfs nor a configuration. Raises BuildError.
    """
    base = _base()
    python = re.fullmatch(r"base-\w+-python([\d.]+)\.tar", base.name)
    if python is None:
        raise BuildError(f"{base} names no version of Python")
    wheels = download_wheels(cache_dir() / "image" / "wheels", python[1])
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        store = Path(scratch) / "storage.conf"
        store.write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{scratch}/root"\nrunroot = "{scratch}/run"\n'
        )
        environment = {
            "CONTAINERS_STORAGE_CONF": str(store),
            "BUILDAH_ISOLATION": "chroot",
            "BASE": BASE,
            "IMAGE_ARGS": f"--quiet --volume {wheels}:/wheels:ro"
            " --build-arg PIP_NO_INDEX=1 --build-arg PIP_FIND_LINKS=/wheels",
        }
        _import_base(environment, base, Path(scratch))
        yield environment


def _import_base(environment: Mapping[str, str], base: Path, scratch: Path) -> None:
    context = scratch / "base"
    context.mkdir()
    os.link(base, context / "base.tar") if _same_device(base, scratch) else shutil.copy(
        base, context / "base.tar"
    )
    (context / "Containerfile").write_text("FROM scratch\nADD base.tar /\n")
    build = ["buildah", "build", "--quiet", "--tag", BASE, str(context)]
    call(build, env={**os.environ, **environment}, limit=BUILD_LIMIT)


def _same_device(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _read(name: str, archive: Path) -> Image:
    with tarfile.open(archive) as tar:

        def load(member: str) -> Any:
            file = tar.extractfile(member)
            if file is None:
                raise BuildError(f"{archive} has no {member}")
            return json.load(file)

        [manifest] = load("manifest.json")
        sizes = [tar.getmember(layer).size for layer in manifest["Layers"]]
        return Image(name, archive, load(manifest["Config"]), sum(sizes), sum(sizes[1:]))


def download_wheels(folder: Path, python: str, *platforms: str) -> Path:
    """Fetch every locked wheel for a version of Python, by hash; raises BuildError if one is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--dest",
        str(folder),
    ]
    pip += ["--no-deps", "--only-binary", ":all:", "--python-version", python, "--require-hashes"]
    pip += [f"--platform={platform}" for platform in platforms]
    for lock in ("requirements.txt", "requirements-build.txt"):
        call([*pip, "--requirement", str(PROJECT / lock)], limit=BUILD_LIMIT)
    return folder


def _base() -> Path:
    """Return the archive of a root filesystem: the distribution of this machine, reduced to Python."""
    folder = cache_dir() / "image"
    folder.mkdir(parents=True, exist_ok=True)
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )
    suite = release["VERSION_CODENAME"].strip('"')
    for made in folder.glob(f"base-{suite}-*.tar"):
        return made
    started = time.monotonic()
    components = "main,universe" if release["ID"] == "ubuntu" else "main"  # where python3-venv is
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        root = Path(scratch) / "root"
        options = ["--variant=minbase", f"--components={components}", "--include=python3,python3-venv"]
        call(["debootstrap", *options, suite, str(root), *_mirror(suite)], limit=BUILD_LIMIT)
        [python] = {path.name for path in (root / "usr/bin").glob("python3.*") if path.name[8:].isdigit()}
        made = folder / f"base-{suite}-{python}.tar"
        partial = Path(scratch) / made.name
        with tarfile.open(partial, "w") as tar:
            for top in sorted(root.iterdir()):
                tar.add(top, top.name, filter=_kept)
        partial.rename(made)
    log.info("made %s in %.0f s", made.name, time.monotonic() - started)
    return made


def _kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    inside = entry.name.partition("/")[0] in ("dev", "proc", "sys") and "/" in entry.name
    return None if inside or entry.name.startswith(tuple(f"{each}/" for each in _LEFT_OUT)) else entry


def _mirror(suite: str) -> list[str]:
    """Return the package mirror of this machine; if empty, debootstrap has a default."""
    listed = call(["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"])
    return [site for site, release in map(str.split, listed.splitlines()) if release == suite][:1]
