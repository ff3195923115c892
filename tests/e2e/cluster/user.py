"""A user of the project at a shell in a checkout, who follows the documentation to the letter."""

import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.deploy.tools import helm
from tests.support.pages import blocks

from ..host import HOSTNAME
from ..image import PROJECT
from .cluster import Cluster
from .deployed import NAME, NAMESPACE, wait_withdrawn
from .registry import Registry

# Directories of the checkout that are made by its tools.
_LEFT_OUT = (".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "dist", "htmlcov")

_NOT_RUN = "not run in a cluster: "


class User:
    """A shell in a copy of the checkout, with the program installed.

    Args:
        builder: the environment of buildah, see `image.builder`.

    Attributes:
        checkout: the copy, which commands may change.
        registry: the user's own, REGISTRY in the documentation.
    """

    def __init__(self, cluster: Cluster, registry: Registry, builder: Mapping[str, str]) -> None:
        self._cluster = cluster
        self.registry = f"{registry.name}/xilinx-fpga-dp"
        self.checkout = cluster.folder / "checkout"
        shutil.copytree(PROJECT, self.checkout, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        programs = cluster.folder / "programs"
        programs.mkdir()
        (programs / "helm").symlink_to(helm())
        self._environment = {
            **builder,
            **registry.environment,
            "PATH": f"{programs}:{cluster.programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def run(self, command: str, limit: float = 300, **words: str) -> str:
        """Run a command of the documentation and return its output; raises NodeError if it fails.

        `words` are those that a reader replaces, besides REGISTRY and NODE.
        """
        for word, value in {"REGISTRY": self.registry, "NODE": HOSTNAME, **words}.items():
            command = re.sub(rf"(?<![\w-]){word.replace('_', '-')}(?![\w-])", value, command)
        return self._cluster.sh(command, env=self._environment, cwd=self.checkout, limit=limit)

    def remove_plugin(self) -> None:
        """Remove what a case has installed, by Helm or by kubectl, and wait until the node has no card."""
        self.run(f"helm uninstall {NAME} --ignore-not-found --wait")
        self.run(f"kubectl delete daemonset -n {NAMESPACE} {NAME} --ignore-not-found")
        wait_withdrawn(self._cluster)


def commands(page: str, under: str = "") -> list[str]:
    """Return the commands of the shell blocks of a section, or of a page, in their order.

    Left out is a block below a comment with the reason: `<!-- not run in a cluster: it needs a card -->`.
    """
    return [line for block in blocks(page, "sh", under, but=_NOT_RUN) for line in block.splitlines()]


def manifest(page: str, containing: str) -> str:
    """Return the only YAML block of a page that contains a text."""
    [found] = [block for block in blocks(page, "yaml") if containing in block]
    return found


def in_checkout(path: Path) -> str:
    """Return a file of the project by its path in a checkout."""
    return str(path.relative_to(PROJECT))
