"""The real program in its own process."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tests.support.waiting import wait_for
from xilinx_fpga_dp.cli import main

PREFIX = "XILINX_FPGA_DP_"
COMMAND = (sys.executable, "-m", "xilinx_fpga_dp")


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return this environment with only these settings. Python writes bytecode, to start faster."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept | {PREFIX + name: value for name, value in settings.items()}


def cli(
    *arguments: str, settings: Mapping[str, str] | None = None, limit: float = 50
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a new process of an interpreter that has imported the program.

    The imports take most of the time of a short command. `started` starts the interpreter too.
    """
    with tempfile.TemporaryDirectory(prefix="cli-") as folder:
        out, errors = Path(folder, "out"), Path(folder, "errors")
        outputs = (str(out), str(errors))
        given = (arguments, clean_environment(settings or {}), outputs)
        process = _importer().Process(target=_command, args=given)
        process.start()
        process.join(limit)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, limit, out.read_text(), errors.read_text())
        code = process.exitcode
        process.close()
        return subprocess.CompletedProcess(arguments, code, out.read_text(), errors.read_text())


@cache
def _importer() -> ForkServerContext:
    """Return the start of processes as forks of one that has imported the program."""
    context = multiprocessing.get_context("forkserver")
    parts = [
        f"xilinx_fpga_dp.{name}"
        for name in ("cli.program", "cli.list", "cli.diagnose", "cli.explain", "wiring")
    ]
    context.set_forkserver_preload(["xilinx_fpga_dp.__main__", *parts, __name__])
    return context


def _command(arguments: tuple[str, ...], environment: dict[str, str], outputs: tuple[str, str]) -> None:
    """Be the command: take its environment, its outputs and its exit code."""
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(outputs, start=1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)
    raise SystemExit(main(arguments))


def started(
    *arguments: str,
    settings: Mapping[str, str] | None = None,
    limit: float = 50,
    stdout: int | IO[str] = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end as an operator starts it."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=clean_environment(settings or {}),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=limit,
        check=False,
    )


# Seconds until the service has ended: 2 s by the benchmarks, more on a busy machine.
ENDS = 50.0


class Service:
    """The command ``run`` in its own process; a thread reads its log. The end of the block kills it."""

    def __init__(
        self,
        settings: Mapping[str, str],
        *arguments: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.events: list[dict[str, Any]] = []
        self.raw: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [*COMMAND, "run", *arguments],
            env=clean_environment({"LOG_FORMAT": "json", **settings}) | dict(environment or {}),
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
        self._reader.join(10)
        if self.process.stderr:
            self.process.stderr.close()
        if error is not None:
            print(*self.raw, sep="", file=sys.stderr)

    def _read(self) -> None:
        for line in self.process.stderr or ():
            with self._news:
                self.raw.append(line)
                if line.startswith("{"):
                    self.events.append(json.loads(line))
                self._news.notify_all()

    def logged(self, event: str, limit: float = 50, count: int = 1, **fields: object) -> dict[str, Any]:
        """Wait for the count-th log event with this name and these fields; return it."""

        def found() -> list[dict[str, Any]]:
            return [e for e in self.events if e["event"] == event and fields.items() <= e.items()]

        deadline = time.monotonic() + limit
        with self._news:
            while len(found()) < count:
                if not self._news.wait(deadline - time.monotonic()):
                    raise AssertionError(f"no event {event!r} {fields} in {limit} s: {self.events}")
            return found()[count - 1]

    def hang_up(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def terminate(self, limit: float = ENDS) -> int:
        """Send SIGTERM and wait for the exit; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(limit)


def remove(directory: Path) -> None:
    """Remove a directory in which the service still creates and removes files."""

    def gone() -> bool:
        shutil.rmtree(directory, ignore_errors=True)
        return not directory.exists()

    wait_for(gone, f"{directory} is removed")
