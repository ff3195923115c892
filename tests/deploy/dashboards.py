"""Reads the dashboards as Grafana does: panels, queries, variables."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.deploy.manifests import DEPLOY

Dashboard = Mapping[str, Any]

DASHBOARDS: Mapping[str, Dashboard] = {
    path.stem: json.loads(path.read_text())
    for path in sorted((DEPLOY / "prometheus").glob("dashboard*.json"))
}
"""By the name of the file."""

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_LABEL_VALUES = re.compile(r"label_values\((.+), (\w+)\)")
# Grafana sets it from the time range and the interval of the scrapes.
_BUILT_IN = {"__rate_interval": "5m"}


def panels(dashboard: Dashboard) -> Iterator[Mapping[str, Any]]:
    """Yield the panels that show something: all but the rows."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def queries(dashboard: Dashboard) -> dict[str, str]:
    """Return the queries of all panels, by title and letter."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels(dashboard)
        for target in panel["targets"]
    }


def resolved(dashboard: Dashboard, query: str) -> str:
    """Return a query as Grafana sends it with `All` chosen for each variable.

    Raises:
        KeyError: the dashboard has no such variable.
    """
    values = _BUILT_IN | {
        each["name"]: each["allValue"] for each in dashboard["templating"]["list"] if each["type"] == "query"
    }
    return _VARIABLE.sub(lambda match: values[match[1] or match[2]], query)


def choices(dashboard: Dashboard) -> Iterator[tuple[str, str]]:
    """Yield the query and the label that the choices of each variable come from."""
    for each in dashboard["templating"]["list"]:
        if each["type"] == "query":
            match = _LABEL_VALUES.fullmatch(each["query"])
            assert match, each["query"]
            yield resolved(dashboard, match[1]), match[2]
