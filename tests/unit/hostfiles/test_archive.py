"""The archive of `capture`: what is packed comes back, and nothing else is unpacked."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xilinx_fpga_dp.hostfiles import archive
from xilinx_fpga_dp.hostfiles.archive import pack, unpack
from xilinx_fpga_dp.hostfiles.bad_archive import BadArchive

MANIFEST: dict[str, dict[str, str]] = {"errors": {}}

LINK, FIFO, HARD = tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE


def made(path: Path, *members: tuple[str, bytes, str | bytes], manifest: object = MANIFEST) -> str:
    """Write an archive with these members: name, type, and content or target."""
    with tarfile.open(path, "w:gz") as tar:
        for name, kind, content in (("manifest.json", tarfile.REGTYPE, json.dumps(manifest)), *members):
            member = tarfile.TarInfo(name)
            member.type = kind
            data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
            if kind == tarfile.REGTYPE:
                member.size = len(data)
            else:
                member.linkname = data.decode(errors="surrogateescape")
            tar.addfile(member, io.BytesIO(data))
    return str(path)


names = st.text(
    st.characters(exclude_characters="/", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=9
)
paths = st.lists(names.filter(lambda each: each not in (".", "..")), min_size=1, max_size=4).map(
    lambda parts: "/".join(("sys", *parts))
)


@given(st.dictionaries(paths, st.binary(max_size=99), max_size=8))
def test_packed_files_come_back(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    directory = tmp_path_factory.mktemp("node")
    (directory / "capture").write_bytes(pack(MANIFEST, files, {}))
    inside = any(a != b and b.startswith(f"{a}/") for a in files for b in files)
    if inside:
        with pytest.raises(BadArchive):
            unpack(str(directory / "capture"), str(directory / "out"))
        return
    unpack(str(directory / "capture"), str(directory / "out"))
    assert {path: (directory / "out" / path).read_bytes() for path in files} == files


def test_link_that_leads_out_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "capture").write_bytes(pack(MANIFEST, {"sys/a": b""}, {"sys/b": "/etc", "sys/c": "../../x"}))
    unpack(str(tmp_path / "capture"), str(tmp_path / "out"))
    assert [each.name for each in (tmp_path / "out/sys").iterdir()] == ["a"]


def test_links_and_errors_come_back(tmp_path: Path) -> None:
    manifest = {"errors": {"sys/a/bad": "Invalid argument"}}
    links = {"sys/bus/x": "../a", "sys/a/up": ".."}
    (tmp_path / "capture").write_bytes(pack(manifest, {"sys/a/b": b"1"}, links))
    assert unpack(str(tmp_path / "capture"), str(tmp_path / "out")) == manifest
    out = tmp_path / "out/sys"
    assert (out / "bus/x/b").read_bytes() == b"1"
    assert (out / "a/up").readlink() == Path("..")
    with pytest.raises(IsADirectoryError):
        (out / "a/bad").read_bytes()


FILE = tarfile.REGTYPE


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([("/etc/passwd", FILE, "")], "no path of a captured file"),
        ([("node/../x", FILE, "")], "no path of a captured file"),
        ([("node/sys/./x", FILE, "")], "no path of a captured file"),
        ([("node//x", FILE, "")], "no path of a captured file"),
        ([("node", FILE, "")], "no path of a captured file"),
        ([("other/x", FILE, "")], "no path of a captured file"),
        ([("node/sys", FILE, "")], "no path of a captured file"),
        ([("node/device-plugins/x", FILE, "")], "no path of a captured file"),
        ([("node/sys/" + "ä" * 200, FILE, "")], "no path of a captured file"),
        ([("node/sys/" + "a/" * 3000 + "x", FILE, "")], "no path of a captured file"),
        ([("node/sys/\udcff", FILE, "")], "no path of a captured file"),
        ([("node/sys/l", LINK, "a/" * 3000 + "x")], "leads out"),
        ([("node/sys/l", LINK, "\udcff")], "leads out"),
        ([("node/sys/a\nb", FILE, "")], "no path of a captured file"),
        ([("node/sys/l", LINK, "/etc")], "leads out"),
        ([("node/sys/l", LINK, "../../etc")], "leads out"),
        ([("node/sys/a/l", LINK, "../..")], "leads out"),
        ([("node/sys/a/l", LINK, "x/../../../etc")], "leads out"),
        ([("node/sys/l", LINK, "a"), ("node/sys/l/x", FILE, "")], "no directory"),
        ([("node/sys/l", LINK, "a"), ("node/sys/l/x", LINK, "y")], "no directory"),
        ([("node/sys/l", LINK, "a"), ("node/sys/l", FILE, "")], "two meanings"),
        ([("node/sys/p", FIFO, "")], "neither a file nor a symbolic link"),
        ([("node/sys/h", HARD, "manifest.json")], "neither a file nor a symbolic link"),
    ],
)
def test_other_members_are_refused(
    tmp_path: Path, members: list[tuple[str, bytes, str | bytes]], why: str
) -> None:
    with pytest.raises(BadArchive, match=why):
        unpack(made(tmp_path / "capture", *members), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        [],
        {},
        {"errors": []},
        *({"errors": {path: "no"}} for path in ("../x", "sys/" + "ä" * 200, "sys/\ud800", "plugins/x")),
    ],
)
def test_other_manifests_are_refused(tmp_path: Path, manifest: object) -> None:
    with pytest.raises(BadArchive):
        unpack(made(tmp_path / "capture", manifest=manifest), str(tmp_path / "out"))


def test_size_and_number_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = made(tmp_path / "many", *((f"node/sys/{n}", FILE, "") for n in range(9)))
    large = made(tmp_path / "large", ("node/sys/x", FILE, "0" * 9000))
    monkeypatch.setattr(archive, "MAX_MEMBERS", 5)
    monkeypatch.setattr(archive, "MAX_BYTES", 5000)
    for path, why in ((many, "more than 5 members"), (large, "MiB unpacked")):
        with pytest.raises(BadArchive, match=why):
            unpack(path, str(tmp_path / "out"))


def test_manifest_of_nested_lists_is_refused(tmp_path: Path) -> None:
    nested = tmp_path / "capture"
    with tarfile.open(nested, "w:gz") as tar:
        member = tarfile.TarInfo("manifest.json")
        member.size = 100_000
        tar.addfile(member, io.BytesIO(b"[" * member.size))
    with pytest.raises(BadArchive):
        unpack(str(nested), str(tmp_path / "out"))


def test_header_without_a_limit_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 5)
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 20)
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 22
    bomb = tmp_path / "bomb"
    with gzip.open(bomb, "wb", 1) as file:
        file.write(header.tobuf())
        for _ in range(header.size >> 20):
            file.write(bytes(1 << 20))
    with pytest.raises(BadArchive, match="MiB unpacked"):
        unpack(str(bomb), str(tmp_path / "out"))


@given(st.binary(max_size=300), st.integers(0, 400))
def test_damaged_archive_is_refused(tmp_path_factory: pytest.TempPathFactory, noise: bytes, cut: int) -> None:
    directory = tmp_path_factory.mktemp("node")
    good = pack(MANIFEST, {"sys/a": b"1"}, {"sys/b": "a"})
    (directory / "capture").write_bytes(good[:cut] + noise)
    try:
        unpack(str(directory / "capture"), str(directory / "out"))
    except BadArchive as error:
        assert "\n" not in str(error)
