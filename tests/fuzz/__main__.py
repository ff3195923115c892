"""`python -m tests.fuzz`: fuzz each target for some seconds; findings are left in .fuzz/."""

import argparse
import subprocess
import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore] # not in every environment

with atheris.instrument_imports(include=["xilinx_fpga_dp"]):
    from tests.fuzz.targets import TARGETS

from tests.fuzz.seeds import SEEDS

_FOLDER = Path(".fuzz")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--within", choices=list(TARGETS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.within:
        _fuzz(options.within, options.seconds, options.seed)
    failed = []
    for name in options.targets or TARGETS:
        command = [sys.executable, "-m", "tests.fuzz", f"--within={name}"]
        command += [f"--seconds={options.seconds}", f"--seed={options.seed}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        last = [line for line in done.stderr.splitlines() if line.startswith("#") or "Done" in line]
        print(f"{name}: {'ok' if done.returncode == 0 else 'BROKEN'}: {' | '.join(last[-2:])}", flush=True)
        if done.returncode:
            failed.append(name)
            print(done.stdout[-3000:], done.stderr[-3000:], sep="\n")
    return 1 if failed else 0


def _fuzz(name: str, seconds: int, seed: int) -> None:
    """Fuzz one target; libFuzzer ends the process."""
    corpus = _FOLDER / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(each)
    limits = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        "-max_len=4096",
        "-timeout=5",
        "-rss_limit_mb=2048",
    ]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={_FOLDER}/{name}-", str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
