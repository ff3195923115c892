"""Draws docs/first-minute.svg: what `simulate --once` prints up to the first fault, recorded from a real run."""

import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).parents[1] / "first-minute.svg"
_COLUMNS = 132
_LAST = "=== kubelet restarts"
_STYLES = {
    r"^===.*": "bold cyan",
    r"\bHealthy\b|device healthy|registered": "green",
    r"warning.*|Unhealthy": "yellow",
}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT(\d\d:\d\d:\d\d)\.\d+Z ")
_FOLDER = re.compile(r"/tmp/[\w/.-]+?(?=/device-plugins|/pod-resources|$)")


def record() -> list[str]:
    """Run the demo and return the lines of its first minute, without dates and temporary folders."""
    command = [sys.executable, "-m", "xilinx_fpga_dp", "simulate", "--once"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    lines = [
        _FOLDER.sub("/var/lib/kubelet", _TIME.sub("", line))
        for line in output.partition(_LAST)[0].splitlines()
    ]
    return ["$ make run", *(line for line in lines if "podresources unavailable" not in line)]


def main() -> None:
    """Write the picture."""
    console = Console(record=True, width=_COLUMNS, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    for line in record():
        text = Text(line if len(line) <= _COLUMNS else line[: _COLUMNS - 1] + "…")
        for pattern, style in _STYLES.items():
            text.highlight_regex(pattern, style)
        console.print(text, no_wrap=True)
    PICTURE.write_text(console.export_svg(title="xilinx-fpga-dp: a node with four cards, on a laptop"))


if __name__ == "__main__":
    main()
