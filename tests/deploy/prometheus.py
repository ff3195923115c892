"""A real Prometheus that scrapes services and evaluates the alert rules."""

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.deploy.manifests import DEPLOY
from tests.deploy.tools import prometheus
from tests.support.ports import address_of, reserved
from tests.support.waiting import wait_for

# What the chart's PodMonitor and the operator add to a pod's series
LABELS = {
    "namespace": "kube-system",
    "pod": "xilinx-fpga-dp-abcde",
    "container": "xilinx-fpga-dp",
    "endpoint": "http",
}


class Prometheus:
    """The server, with its data in a folder.

    Args:
        folder: an empty folder.
        scraped: the addresses with the metrics, by node.
    """

    def __init__(self, folder: Path, scraped: Mapping[str, str]) -> None:
        job = {
            "job_name": "xilinx-fpga-dp",
            "honor_labels": True,
            "static_configs": [
                {"targets": [address], "labels": LABELS | {"node": node}} for node, address in scraped.items()
            ],
        }
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(DEPLOY / "prometheus" / "alerts.yaml")],
            "scrape_configs": [job],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        self._held = reserved()
        self._address = address_of(self._held)
        self._command = [
            str(prometheus("prometheus")),
            f"--config.file={folder}/prometheus.yaml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={self._address}",
            "--log.level=warn",
        ]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, cwd="/")
        wait_for(self._is_ready, "Prometheus is ready")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._held.close()

    def query(self, expression: str) -> list[Mapping[str, Any]]:
        """Return the labels and the value of each series that an instant query finds."""
        found: list[Mapping[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def label_values(self, label: str, selector: str) -> list[str]:
        """Return the values of a label in the series that a selector matches."""
        found: list[str] = self._get(f"label/{label}/values", **{"match[]": selector})
        return found

    def rules(self) -> list[Mapping[str, Any]]:
        """Return the rules with their state."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer.

        Raises:
            AssertionError: Prometheus refuses the request; the message has its reason.
        """
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, "Prometheus has ended"
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=30):
                return True
        except OSError:
            return False
