"""A measured figure with its target and its reference, and the table of figures."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

_HEADINGS = ("what", "median", "worst", "runs", "target", "", "reference")


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        what: the name of the figure.
        unit: of all its numbers, ``ms``, ``MB``.
        values: one for each run.
        target: the upper limit; None: no limit, the figure explains another one.
        judged: the value that must meet the target.
        reference: the same figure of the reference in the same run; None: no reference.
        compared: the name of the reference.
    """

    what: str
    unit: str
    values: Sequence[float]
    target: float | None = None
    judged: Literal["median", "worst"] = "median"
    reference: float | None = None
    compared: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def worst(self) -> float:
        return max(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is no target."""
        if self.target is None:
            return None
        return (self.median if self.judged == "median" else self.worst) <= self.target

    def document(self) -> dict[str, Any]:
        """Return all fields and values for JSON."""
        return asdict(self) | {"median": self.median, "worst": self.worst, "met": self.met}

    def cells(self) -> tuple[str, ...]:
        reference = "" if self.reference is None else f"{_short(self.reference)} {self.unit}"
        target = "" if self.target is None else f"{_short(self.target)} {self.unit} {self.judged}"
        return (
            self.what,
            f"{_short(self.median)} {self.unit}",
            f"{_short(self.worst)} {self.unit}" if len(self.values) > 1 else "",
            str(len(self.values)),
            target,
            {None: "", True: "ok", False: "MISSED"}[self.met],
            f"{reference}  {self.compared}".strip(),
        )


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as an aligned Markdown table."""
    rows = [_HEADINGS, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in rows
    ]
    lines.insert(1, f"| {' | '.join('-' * max(width, 3) for width in widths)} |")
    return "\n".join(lines)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the quantile of the values for a share, 0.99 for p99."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _short(number: float) -> str:
    """Return a number with three significant digits."""
    if abs(number) >= 100:
        return f"{number:.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"
