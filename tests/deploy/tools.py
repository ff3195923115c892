"""Fetches once the tools and schemas that check the manifests and alert rules.

`python -m tests.deploy.tools NAME` prints the path of a tool. The cache is that of tests/e2e, by version.
"""

import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.build import KUBERNETES_MODULE, Go, build_program, build_source, cache_dir, call

KUBERNETES = ("1.37.2", "1.28.15")  # the newest, and the oldest that the chart supports
PROMETHEUS_OPERATOR = "0.85.0"
GRAFANA_SDK = "0.0.22"


def helm() -> Path:
    """Return the path of Helm, built from its module."""
    return build_program("helm", "helm.sh/helm/v3", "3.22.0", "cmd/helm")


def kustomize() -> Path:
    """Return the path of Kustomize, built from its module."""
    return build_program("kustomize", "sigs.k8s.io/kustomize/kustomize/v5", "5.8.2")


def syft() -> Path:
    """Return the path of Syft, built from its module; it writes the bill of materials of an image."""
    return build_program("syft", "github.com/anchore/syft", "1.57.0", "cmd/syft")


def promtool() -> Path:
    """Return the path of promtool."""
    return prometheus("promtool")


def prometheus(program: str) -> Path:
    """Return the path of `prometheus` or `promtool`: the installed one, else that of Debian's package.

    The package is unpacked without installation.
    """
    if own := shutil.which(program):
        return Path(own)
    kept = cache_dir() / "bin" / program
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            folder = Path(scratch)
            if not call(["apt-cache", "search", "--names-only", "^prometheus$"]):
                call(["apt-get", "update", "-q"], limit=300)
            call(["apt-get", "download", "-q", "prometheus"], cwd=folder, limit=300)
            [package] = folder.glob("prometheus_*.deb")
            call(["dpkg-deb", "--extract", str(package), str(folder)])
            for name in ("prometheus", "promtool"):
                (folder / "usr" / "bin" / name).rename(kept.with_name(name))
    return kept


def dashboard_checker() -> Path:
    """Return the path of the program in grafana/, built with Grafana's own types of a dashboard."""
    source = Path(__file__).parent / "grafana" / "main.go"
    return build_source(
        "dashboard-checker", source, "github.com/grafana/grafana-foundation-sdk/go", GRAFANA_SDK
    )


@cache
def kubernetes_schemas(version: str) -> Mapping[str, Any]:
    """Return the definitions of the API of a release, from the OpenAPI file in its sources."""

    def read() -> str:
        folder = Go.find().module_folder(KUBERNETES_MODULE, version)
        return (folder / "api" / "openapi-spec" / "swagger.json").read_text()

    file = _kept(f"openapi-{version}.json", read)
    definitions: Mapping[str, Any] = json.loads(file.read_text())["definitions"]
    return definitions


@cache
def operator_schema(plural: str) -> Mapping[str, Any]:
    """Return the schema of a kind of the Prometheus operator, from its custom resource definition."""
    definition = yaml.safe_load(operator_definition(plural).read_text())
    [version] = definition["spec"]["versions"]
    schema: Mapping[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def operator_definition(plural: str) -> Path:
    """Return the file of the custom resource definition of a kind of the Prometheus operator."""

    def read() -> str:
        module = "github.com/prometheus-operator/prometheus-operator"
        folder = Go.find().module_folder(module, PROMETHEUS_OPERATOR)
        file = folder / "example" / "prometheus-operator-crd" / f"monitoring.coreos.com_{plural}.yaml"
        return file.read_text()

    return _kept(f"operator-{PROMETHEUS_OPERATOR}-{plural}.yaml", read)


def _kept(name: str, read: Callable[[], str]) -> Path:
    file = cache_dir() / "schemas" / name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:  # another run may write it too
            partial = Path(scratch) / name
            partial.write_text(read())
            partial.rename(file)
    return file


def main() -> None:
    """Print the path of a tool; fetch it first if it is missing."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tools = {
        "helm": helm,
        "kustomize": kustomize,
        "syft": syft,
        "promtool": promtool,
        "dashboard-checker": dashboard_checker,
    }
    sys.stdout.write(f"{tools[sys.argv[1]]()}\n")


if __name__ == "__main__":
    main()
