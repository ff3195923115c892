"""The command: measure rows and print the table."""

import argparse
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import cluster, dra, reports, scans, size, speed, telemetry
from tests.bench.figures import Figure, table
from tests.bench.stage import place

_ROWS: dict[str, Callable[[bool], Iterator[Figure]]] = {
    "start": speed.start,
    "back": speed.back,
    "allocate": speed.allocate,
    "fault": speed.fault,
    "scan": scans.scan,
    "memory": size.resident,
    "idle": telemetry.idle,
    "scale": size.scale,
    "reports": reports.reports,
    "cluster": cluster.cluster,
    "dra-claims": dra.claims,
    "dra-start": dra.start,
    "dra-fault": dra.fault,
    "dra-rest": dra.rest,
}


def main() -> int:
    """Measure and print; return 1 if a figure misses its target or could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"rows: {', '.join(_ROWS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="fewer runs: rough figures, in a minute or two")
    parser.add_argument("--json", metavar="FILE", help="write every value there too")
    options = parser.parse_args()
    if unknown := set(options.names) - _ROWS.keys():
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(_ROWS)}")
    before = os.getloadavg()[0]
    figures: list[Figure] = []
    failed = []
    for name in options.names or _ROWS:
        began = time.monotonic()
        try:
            figures += _ROWS[name](options.quick)
        except Exception:  # the other rows are measured and printed all the same
            traceback.print_exc()
            failed.append(name)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    machine = _machine() | {"load": f"{before:.2f} before, {os.getloadavg()[0]:.2f} after"}
    print(*(f"{name}: {text}" for name, text in machine.items()), sep="\n", end="\n\n")
    print(table(figures))
    if options.json:
        document = {"machine": machine, "figures": [figure.document() for figure in figures]}
        Path(options.json).write_text(json.dumps(document, indent=2) + "\n")
    if failed:
        print(f"\nno figures, for the errors above: {', '.join(failed)}")
    return int(bool(failed) or any(figure.met is False for figure in figures))


def _machine() -> dict[str, str]:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} x {models[0] if models else platform.machine()}",
        "kernel": platform.release(),
        "sample node": f"in {place()}",
    }


if __name__ == "__main__":
    sys.exit(main())
