"""``capture``, and the commands that play an archive."""

import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.mixed_node import Mixed
from tests.support.paths import PROJECT
from tests.support.process import COMMAND, clean_environment, cli
from tests.support.running import settings_for
from tests.support.scanning import listed
from tests.support.schemas import conforms
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


def capture(node: SampleNode, path: Path, *options: str) -> dict[str, Any]:
    """Capture a node and return the manifest."""
    done = cli("capture", "-o", str(path), *options, settings=settings_for(node))
    assert (done.returncode, done.stderr) == (0, "")
    with tarfile.open(path) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest
        document: dict[str, Any] = json.load(manifest)
    conforms("capture", document)
    return document


def played(path: Path, **settings: str) -> dict[str, Any]:
    done = cli("list", "--output", "json", "--from", str(path), settings=settings)
    assert (done.returncode, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def without_serials(document: dict[str, Any]) -> dict[str, Any]:
    rows = [{**row, "serial": None} for row in document["devices"]]
    return {**document, "devices": rows}


@pytest.fixture
def mixed(node: SampleNode) -> SampleNode:
    """A node with cards of all drivers, and others that are left out."""
    Mixed(node)
    node.plug("u250-golden")
    node.plug("u30")
    node.add_ordinary_devices()
    return node


def test_archive_lists_as_the_node_does(mixed: SampleNode, tmp_path: Path) -> None:
    path = tmp_path / "c.tar.gz"
    capture(mixed, path, "--slow", "--with-serials")
    assert played(path) == listed(mixed)
    # Without the slow attributes no serial number is known; a U30's pair is found by its bridge then.
    fast = tmp_path / "fast.tar.gz"
    manifest = capture(mixed, fast)
    assert any(each.endswith("/serial_num") for each in manifest["unread"])
    assert without_serials(played(fast)) == without_serials(listed(mixed))


def test_serial_numbers_are_replaced_everywhere(mixed: SampleNode, tmp_path: Path) -> None:
    path = tmp_path / "c.tar.gz"
    capture(mixed, path, "--slow")
    serials = {row["serial"] for row in listed(mixed)["devices"]} - {None}
    assert serials
    with tarfile.open(path) as archive:
        texts = [archive.extractfile(each).read() for each in archive if each.isreg()]  # type: ignore[union-attr]
    assert not any(serial.encode() in text for serial in serials for text in texts)
    shown = [row["serial"] for row in played(path)["devices"]]
    assert all(each is None or each.startswith("SERIAL") for each in shown)
    assert len(set(shown)) == len({row["serial"] for row in listed(mixed)["devices"]})


def test_unreadable_attribute_stays_unreadable(node: SampleNode, tmp_path: Path) -> None:
    [card] = node.plug("u200")
    path = Path(card.path("rom/VBNV"))
    path.unlink()
    path.mkdir()
    manifest = capture(node, tmp_path / "c.tar.gz")
    assert played(tmp_path / "c.tar.gz") == listed(node)
    assert manifest["errors"][f"{os.path.realpath(path).removeprefix(f'{node.root}/')}"] == "Is a directory"


def test_module_without_a_version_counts_as_loaded(node: SampleNode, tmp_path: Path) -> None:
    for card in node.plug("ma35d"):
        card.unbind()
    capture(node, tmp_path / "c.tar.gz")
    left_out = played(tmp_path / "c.tar.gz")["left_out"]
    assert left_out == listed(node)["left_out"]
    assert "ama_transcoder is loaded" in left_out[0]["reason"]


def test_hanging_attribute_costs_its_device_only(node: SampleNode, tmp_path: Path) -> None:
    card, other = node.plug("u200")[0], node.plug("u50")[0]
    card.hang("rom/VBNV")
    manifest = capture(node, tmp_path / "c.tar.gz")
    card.unhang("rom/VBNV")
    [path] = [path for path, why in manifest["unread"].items() if why == "no answer for 3 s"]
    assert path.endswith("/VBNV")
    assert [row["id"] for row in played(tmp_path / "c.tar.gz")["devices"]] == [other.address]


def test_entries_beyond_the_limit_are_named(node: SampleNode, tmp_path: Path) -> None:
    [card] = node.plug("u200")
    for number in range(20_000):
        (Path(card.user) / f"entry{number}").touch()
    manifest = capture(node, tmp_path / "c.tar.gz")
    assert [path for path, why in manifest["unread"].items() if why.startswith("more than")] == [
        os.path.realpath(card.user).removeprefix(f"{node.root}/")
    ]


def test_other_vendors_and_this_machine_are_not_in_it(mixed: SampleNode, tmp_path: Path) -> None:
    capture(mixed, tmp_path / "c.tar.gz")
    with tarfile.open(tmp_path / "c.tar.gz") as archive:
        names = archive.getnames()
        text = b"".join(archive.extractfile(each).read() for each in archive if each.isreg())  # type: ignore[union-attr]
    assert not any("0000:01:00.0/vendor" in name for name in names)  # an NVMe disk
    assert mixed.root.encode() not in text


def test_card_that_does_not_answer_is_not_asked(node: SampleNode, tmp_path: Path) -> None:
    card, other = node.plug("ma35d")
    for each, config in ((card, b"\xff" * 64), (other, b"\xee\x10\x70\x50" * 16)):
        node.files.put(f"{os.path.realpath(each.user)}/config", config)
    manifest = capture(node, tmp_path / "c.tar.gz", "--slow")
    [path] = [path for path, why in manifest["unread"].items() if why == "the card does not answer"]
    assert path.endswith("ama_transcoder0/device_info")
    with tarfile.open(tmp_path / "c.tar.gz") as archive:
        sizes = [each.size for each in archive if each.name.endswith("/config")]
    assert sizes == [4, 4]


def test_archive_goes_to_stdout(node: SampleNode, tmp_path: Path) -> None:
    node.plug("u200")
    command = [*COMMAND, "capture", "-o", "-"]
    environment = clean_environment(settings_for(node))
    archive = subprocess.check_output(command, env=environment, stderr=subprocess.DEVNULL)
    (tmp_path / "c.tar.gz").write_bytes(archive)
    assert len(played(tmp_path / "c.tar.gz")["devices"]) == 1


CAPTURES = PROJECT / "tests" / "data" / "captures"


@pytest.mark.parametrize("path", sorted(CAPTURES.glob("*.tar.gz")), ids=lambda path: path.name)
def test_captured_node_is_listed_as_then(path: Path) -> None:
    expected = json.loads((CAPTURES / f"{path.name.removesuffix('.tar.gz')}.json").read_text())
    assert played(path) == expected


def test_existing_file_is_not_written_over(node: SampleNode, tmp_path: Path) -> None:
    path = tmp_path / "c.tar.gz"
    path.write_text("mine")
    done = cli("capture", "-o", str(path), settings=settings_for(node))
    assert done.returncode == 1
    assert done.stderr == f"capture: File exists: {path}\n"
    assert path.read_text() == "mine"


def test_capture_without_a_bus_ends_with_1(tmp_path: Path) -> None:
    settings = {"SYSFS_ROOT": str(tmp_path / "none")}
    done = cli("capture", "-o", str(tmp_path / "c.tar.gz"), settings=settings)
    assert done.returncode == 1
    assert done.stderr.startswith("nothing captured: ")
    assert not (tmp_path / "c.tar.gz").exists()


@pytest.mark.parametrize("command", ["list", "simulate"])
def test_other_file_is_refused_in_one_line(tmp_path: Path, command: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no archive")
    done = cli(command, "--from", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{path}: no capture: ")
    assert done.stderr.count("\n") == 1


def test_simulate_plays_an_archive(mixed: SampleNode, tmp_path: Path) -> None:
    capture(mixed, tmp_path / "c.tar.gz")
    done = cli("simulate", "--once", "--from", str(tmp_path / "c.tar.gz"))
    assert done.returncode == 0, done.stdout
    assert "A pod requests one" in done.stdout
    assert "It ended with 0" in done.stdout


def test_simulate_takes_an_archive_or_boards() -> None:
    done = cli("simulate", "--from", "x", "--board", "u200")
    assert (done.returncode, done.stderr) == (2, "--from: not together with --board or --node\n")
