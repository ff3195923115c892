"""The report of a run: the outcome of each case, and durations as seen by kubelet.

`python -m tests.e2e.report` prints a table of cases and one of times from the pages of all versions.
"""

import json
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .build import CONTAINERD_VERSION, Version, cache_dir

_FOLDER = cache_dir() / "reports"

PASSED, FAILED, NOT_APPLICABLE = "pass", "FAIL", "n/a"


@dataclass
class Report:
    """The results of a run."""

    kubernetes: str = ""
    kind: str = ""  # of the run, where it is not that of a node alone
    cases: dict[str, tuple[str, str]] = field(default_factory=dict)  # the outcome, and why it was skipped
    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    notes: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.time)
    took: float = 0.0

    @property
    def folder(self) -> Path:
        """The directory of the page and of the logs of the run; it is outside the checkout."""
        return _FOLDER / self.kind / self.kubernetes

    def time(self, what: str, seconds: float) -> None:
        """Record a duration."""
        self.times[what].append(seconds)

    def note(self, what: str) -> None:
        """Record another result."""
        self.notes.append(what)

    def case(self, name: str, outcome: str, why: str = "") -> None:
        """Record the outcome of a case; a failure is never overwritten."""
        if self.cases.get(name, ("", ""))[0] != FAILED:
            self.cases[name] = (outcome, why)

    @property
    def _timed(self) -> str:
        return "time, as a user sees it" if self.kind else "time, as kubelet saw it"

    def save(self) -> Path:
        """Write the page and a JSON file with the same content; return the path of the page."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {
            "kubernetes": self.kubernetes,
            "containerd": CONTAINERD_VERSION,
            "kernel": platform.release(),
            "date": time.strftime("%Y-%m-%d", time.gmtime(self.began)),
            "took": self.took,
            "cases": self.cases,
            "times": self.times,
        }
        (self.folder / "run.json").write_text(json.dumps(kept, indent=1))
        page = self.folder / "report.txt"
        page.write_text("\n".join(self.page()) + "\n")
        return page

    def page(self) -> list[str]:
        """The page, line by line."""
        outcomes = [outcome for outcome, _ in self.cases.values()]
        counted = ", ".join(
            f"{outcomes.count(each)} {word}"
            for each, word in ((PASSED, "pass"), (FAILED, "fail"), (NOT_APPLICABLE, "not applicable"))
        )
        date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.began))
        lines = [
            f"Kubernetes {self.kubernetes}, containerd {CONTAINERD_VERSION}, Linux {platform.release()}",
            f"{date}, {self.took:.0f} s, {len(outcomes)} cases: {counted}",
            "",
        ]
        for name, (outcome, why) in self.cases.items():
            lines.append(f"{outcome:4}  {name}" + (f" ({why})" if why else ""))
        if self.times:
            width = max(map(len, self.times))
            lines += ["", f"{self._timed:{width}}  {'median':>9}  {'worst':>9}  times"]
        for what, taken in self.times.items():
            median, worst = _median_and_worst(taken)
            lines.append(f"{what:{width}}  {median:>9}  {worst:>9}  {len(taken):>5}")
        return [*lines, "", *self.notes] if self.notes else lines


def _median_and_worst(taken: Sequence[float]) -> tuple[str, str]:
    return _readable(statistics.median(taken)), _readable(max(taken))


def _readable(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def tables(runs: Sequence[dict[str, Any]]) -> Iterable[str]:
    """Markdown tables over the runs of several versions: the runs, the cases, the times."""
    runs = sorted(runs, key=lambda run: Version.parse(run["kubernetes"]), reverse=True)
    yield "| Kubernetes | containerd | Linux | date | pass | fail | not applicable | run took |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for run in runs:
        outcomes = [outcome for outcome, _ in run["cases"].values()]
        counted = " | ".join(str(outcomes.count(each)) for each in (PASSED, FAILED, NOT_APPLICABLE))
        about = f"{run['kubernetes']} | {run['containerd']} | {run['kernel']} | {run['date']}"
        yield f"| {about} | {counted} | {run['took']:.0f} s |"
    yield ""
    names = " | ".join(run["kubernetes"] for run in runs)
    yield f"| case | {names} |"
    yield "| --- |" + " --- |" * len(runs)
    for case in _union(run["cases"] for run in runs):
        results = " | ".join(run["cases"].get(case, ("-", ""))[0] for run in runs)
        yield f"| {case} | {results} |"
    yield ""
    yield f"| time, as kubelet saw it: median / worst | {names} |"
    yield "| --- |" + " --- |" * len(runs)
    for what in _union(run["times"] for run in runs):
        results = " | ".join(
            " / ".join(_median_and_worst(run["times"][what])) if what in run["times"] else "-" for run in runs
        )
        yield f"| {what} | {results} |"


def _union(tables: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for table in tables for name in table))


def main() -> None:
    """Print the tables over all pages in the cache, or over those of the versions given."""
    wanted = sys.argv[1:]
    files = _FOLDER.glob("*/run.json")
    runs = [json.loads(file.read_text()) for file in files if not wanted or file.parent.name in wanted]
    sys.stdout.write("\n".join(tables(runs)) + "\n")


if __name__ == "__main__":
    main()
