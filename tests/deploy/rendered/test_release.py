"""`make release` on a machine that cannot build an image."""

import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import yaml

from tests.support.paths import PROJECT
from xilinx_fpga_dp import __version__


def test_release_has_one_version_and_reports_a_missing_image(tmp_path: Path) -> None:
    outer = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "release", f"DIST={tmp_path}", "BUILDER=no-such-program"],
        cwd=PROJECT,
        env=outer,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode != 0
    assert "NO IMAGE: no-such-program is not installed" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {
        f"xilinx_fpga_dp-{__version__}-py3-none-any.whl",
        f"xilinx_fpga_dp-{__version__}.tar.gz",
        f"xilinx-fpga-dp-{__version__}.tgz",
    }
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assert not any(name.startswith("tests") for name in wheel.namelist())
    with tarfile.open(next(tmp_path.glob("*.tgz"))) as chart:
        names = set(chart.getnames())
        file = chart.extractfile("xilinx-fpga-dp/Chart.yaml")
        assert file is not None
        described = yaml.safe_load(file)
    assert (described["version"], described["appVersion"]) == (__version__, __version__)
    assert {f"xilinx-fpga-dp/{name}" for name in ("files/alerts.yaml", "values.schema.json")} <= names
