"""The archive of `capture`: what was read of a node, to be reviewed by people and played elsewhere.

A tar.gz with two kinds of members:

    manifest.json      what was captured and of which node, and what could not be read and why
    node/sys/...       attributes as files, and links; a file that was not read is empty
    node/dev/...       device nodes as empty files, and links

An attribute that answers an error is named in the manifest's ``errors`` alone; it becomes a directory, whose
read fails too.

An archive comes from elsewhere, so unpacking trusts nothing of it: only these members, plain names, files and
relative links that stay below their top, and bounds on everything. Links are made last, so that no file is
written through one.
"""

import gzip
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

from xilinx_fpga_dp.hostfiles.bad_archive import BadArchive

MAX_BYTES: Final = 16 << 20
"""Bytes of all files of an archive together, and of the archive itself."""

MAX_MEMBERS: Final = 50_000

_MAX_HEADER: Final = 2048  # bytes that a member takes besides its content, on average
_MAX_PATH: Final = 1024  # bytes
_MAX_NAME: Final = 255  # bytes, as file systems have it
_MANIFEST: Final = "manifest.json"
_TOP: Final = "node"
_NAME: Final = re.compile(r"(?!\.{1,2}(?:/|$))[^/\x00-\x1f\x7f\ud800-\udfff]+")
_LINK: Final = re.compile(rf"(?:\.\./)*(?:\.\.?|{_NAME.pattern}(?:/{_NAME.pattern})*)")


def pack(manifest: Mapping[str, Any], files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    """Make an archive: files and the targets of links, each by its path below the node's root.

    A link that `unpack` would refuse is omitted.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        content = {_MANIFEST: json.dumps(manifest, indent=1, sort_keys=True).encode()}
        content |= {f"{_TOP}/{path}": data for path, data in files.items()}
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for path, target in links.items():
            if not _stays_inside(path, target):
                continue
            member = tarfile.TarInfo(f"{_TOP}/{path}")
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return buffer.getvalue()


def unpack(path: str, directory: str) -> dict[str, Any]:
    """Unpack an archive's node into an empty directory; return its manifest.

    Raises:
        BadArchive: it is no capture, or not one that may be unpacked.
        OSError: it cannot be read, or the directory not written.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise BadArchive(f"more than {MAX_BYTES >> 20} MiB")
    try:
        manifest, files, links = _members(data)
    except (tarfile.TarError, zlib.error, EOFError, OSError, RecursionError, ValueError) as error:
        raise BadArchive(f"no capture: {error}") from None
    for name in {*map(os.path.dirname, [*files, *links]), *manifest["errors"]}:
        os.makedirs(os.path.join(directory, name), exist_ok=True)
    for name, content in files.items():
        with open(os.path.join(directory, name), "xb") as file:
            file.write(content)
    for name, link in links.items():
        os.symlink(link, os.path.join(directory, name))
    return manifest


def _members(data: bytes) -> tuple[dict[str, Any], dict[str, bytes], dict[str, str]]:
    """Read all members. Raises ValueError for one that an archive of `capture` does not have."""
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    left = MAX_BYTES
    most = MAX_BYTES + MAX_MEMBERS * _MAX_HEADER
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
        unpacked = packed.read(most + 1)
    if len(unpacked) > most:
        raise ValueError(f"more than {MAX_BYTES >> 20} MiB unpacked")
    with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
        for count, member in enumerate(archive):
            if count >= MAX_MEMBERS:
                raise ValueError(f"more than {MAX_MEMBERS} members")
            left -= member.size
            if left < 0:
                raise ValueError(f"more than {MAX_BYTES >> 20} MiB unpacked")
            if member.issym():
                links[_path(member.name)] = member.linkname
            elif member.isreg() and (content := archive.extractfile(member)):
                files[_path(member.name)] = content.read()
            else:
                raise ValueError(f"{member.name!r} is neither a file nor a symbolic link")
    manifest = json.loads(files.pop(_MANIFEST, b"null"))
    if not isinstance(manifest, dict) or not isinstance(manifest.get("errors"), dict):
        raise tarfile.TarError(f"it has no {_MANIFEST} of a capture")
    _require_tree([*files, *links, *(_path(f"{_TOP}/{path}") for path in manifest["errors"])], links)
    return manifest, files, links


def _path(name: str) -> str:
    """Return the path of a member below the node's root; the manifest keeps its name."""
    if name == _MANIFEST:
        return name
    top, *parts = name.split("/")
    if top != _TOP or parts[:1] not in (["sys"], ["dev"]) or not parts[1:] or not _is_path(parts):
        raise ValueError(f"{name[:100]!r} is no path of a captured file")
    return "/".join(parts)


def _is_path(parts: Sequence[str]) -> bool:
    """Whether these are names that every file system takes."""
    if not all(map(_NAME.fullmatch, parts)):
        return False
    sizes = [len(part.encode()) for part in parts]
    return max(sizes, default=0) <= _MAX_NAME and sum(sizes) + len(sizes) <= _MAX_PATH


def _require_tree(leaves: Collection[str], links: Mapping[str, str]) -> None:
    """Raise ValueError unless every path has one meaning and every link stays below its top directory."""
    distinct = set(leaves)
    if len(distinct) < len(leaves):
        raise ValueError("a path has two meanings")
    for path in distinct:
        above = list(accumulate(path.split("/")[:-1], "{}/{}".format))
        if inside := next((each for each in above if each in distinct), None):
            raise ValueError(f"{path!r} is inside of {inside!r}, which is no directory")
    for path, target in links.items():
        if not _stays_inside(path, target):
            raise ValueError(f"link {path!r} leads out of its tree: {target[:100]!r}")


def _stays_inside(path: str, target: str) -> bool:
    """Whether a link stays below its top directory, ``sys`` or ``dev``."""
    # The directories above a link are real ones, so `..` at the start of its target means what it says.
    parts = target.split("/")
    ups = parts.count("..")
    return bool(_LINK.fullmatch(target)) and ups < path.count("/") and _is_path(parts[ups:])
