"""``cluster``: every card of the cluster in one table, with the rights of the user's kubeconfig."""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from xilinx_fpga_dp.cli.command import BadUse, Command, output_option
from xilinx_fpga_dp.cli.screen import is_terminal
from xilinx_fpga_dp.cli.watch import watch
from xilinx_fpga_dp.observe.table import printable
from xilinx_fpga_dp.settings import Settings

if TYPE_CHECKING:  # what follows loads `ssl`, which other commands leave out
    from xilinx_fpga_dp.apiserver.client import ApiServer
    from xilinx_fpga_dp.cli.cluster.states import Found

_SELECTOR: Final = "app.kubernetes.io/name=xilinx-fpga-dp"  # deploy/helm, _helpers.tpl, fpga.selector
_WATCH: Final = 5.0  # seconds between two tables: each is a call a node
_END: Final = {"csv": "\r\n", "json": "\n"}  # of a document in a format; a table ends with an empty line
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def run(_settings: Settings, options: argparse.Namespace) -> int:
    from xilinx_fpga_dp.apiserver.errors import ApiServerError, NoAccess

    if sys.stdout:
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        with suppress(KeyboardInterrupt):
            return asyncio.run(_run(options, os.path.expanduser("~")))
    except NoAccess as error:
        raise BadUse(f"cluster: {printable(str(error))}") from None
    except ApiServerError as error:
        print(_problem(error), file=sys.stderr)
        return 1
    return 0


async def _run(options: argparse.Namespace, home: str) -> int:
    from xilinx_fpga_dp.apiserver import access
    from xilinx_fpga_dp.apiserver.client import COMMAND_LIMIT, ApiServer
    from xilinx_fpga_dp.cli.cluster.states import AT_ONCE

    way = access.find(os.environ, home=home, context=options.context)
    async with ApiServer(way, connections=AT_ONCE, call_limit=COMMAND_LIMIT) as api:
        view = _View(api, options)
        return await (view.watch() if options.watch else view.show())


class _View:
    """Reads the cluster and prints it, once or again and again."""

    def __init__(self, api: "ApiServer", options: argparse.Namespace) -> None:
        self._api = api
        self._options = options
        self._end = _END.get(options.output, "\n")
        self._read = False  # the pods have been listed
        self._told = ""  # the last problem on stderr

    async def show(self) -> int:
        """Print the cluster as it is now; return the exit code."""
        found = await self._found()
        if not found.pods:
            print(_none(self._options), file=sys.stderr)
        print(self._rendered(found), end=self._end)
        return 0 if any(each.state for each in found.answers) else 1

    async def watch(self) -> int:
        """Print the cluster again and again. A time that an answer rounds in another way is no change."""
        end = self._end if self._options.output == "json" else self._end * 2
        await watch(self._text, _WATCH, end=end, compared=lambda text: _TIME.sub("", text))
        return 0

    async def _text(self) -> str | None:
        """Return the text to show; None, with the reason on stderr, where nothing could be read."""
        from xilinx_fpga_dp.apiserver.errors import ApiServerError, NoAccess

        text, problem = None, ""
        try:
            found = await self._found()
            text = self._rendered(found)
            problem = "" if found.pods else _none(self._options)
        except ApiServerError as error:
            if isinstance(error, NoAccess) and not self._read:
                raise
            problem = _problem(error)
        if is_terminal(sys.stdout):
            return problem or text
        if problem not in ("", self._told):
            print(problem, file=sys.stderr)
        self._told = problem
        return text

    async def _found(self) -> "Found":
        from xilinx_fpga_dp.cli.cluster.states import read

        options = self._options
        found = await read(self._api, options.namespace, options.selector, options.node)
        self._read = True
        return found

    def _rendered(self, found: "Found") -> str:
        from xilinx_fpga_dp.cli.cluster.render import as_csv, as_json, as_table

        if self._options.unhealthy:
            found = found.unhealthy()
        match self._options.output:
            case "json":
                return as_json(found)
            case "csv":
                return as_csv(found)
            case _:
                return as_table(found, wide=self._options.output == "wide")


def _problem(error: Exception) -> str:
    from xilinx_fpga_dp.apiserver.errors import Forbidden

    # For pods of all namespaces the API server says "at the cluster scope".
    hint = "; in one namespace: --namespace" if isinstance(error, Forbidden) else ""
    return f"cluster: {printable(str(error))}{hint}"


def _none(options: argparse.Namespace) -> str:
    where = f"namespace {options.namespace}" if options.namespace else "any namespace"
    scope = f"-n {options.namespace}" if options.namespace else "-A"
    return (
        f"cluster: no pod with the label {printable(options.selector)} in {printable(where)}; is the plugin "
        f"installed (kubectl get daemonsets {printable(scope)})? With another nameOverride use --selector"
    )


_OPTIONS: Final[dict[str, Mapping[str, Any]]] = {
    "--node": {
        "action": "append", "default": [], "metavar": "NAME", "help": "only this node; may be repeated",
    },
    "--unhealthy": {
        "action": "store_true", "help": "only devices that are not Healthy, and nodes without an answer",
    },
    "--watch": {
        "action": "store_true",
        "help": f"again every {_WATCH:g} seconds; piped, when something has changed",
    },
    "--namespace": {"default": "", "metavar": "NAME", "help": "of the plugin's pods; default: all"},
    "--selector": {
        "default": _SELECTOR, "metavar": "LABELS", "help": f"of the plugin's pods; default {_SELECTOR}",
    },
    "--context": {"metavar": "NAME", "help": "of the kubeconfig; default: its current one"},
}  # fmt: skip
COMMAND = Command(run, options=output_option("table", "wide", "json", "csv") | _OPTIONS)
