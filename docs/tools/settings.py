"""Write docs/reference/settings.md from the settings model, or check that it is up to date.

python docs/tools/settings.py write|check
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xilinx_fpga_dp.settings import PREFIX, variable
from xilinx_fpga_dp.settings_model import Settings

PAGE = Path(__file__).parents[1] / "reference" / "settings.md"
HEAD = f"""\
# Settings

Generated from the settings' model (`make docs`); `make check` fails where it differs.

Every setting is an environment variable with the prefix `{PREFIX}`, and a flag before or
after the command. The flag takes precedence.

```console
$ XILINX_FPGA_DP_RESOURCE_NAME_TEMPLATE={{board}} python -m xilinx_fpga_dp list
$ python -m xilinx_fpga_dp list --resource-name-template {{board}}
```

A setting of the wrong form ends the command with exit code 2 and one line that names its variable
and the error. The state of the node is never a wrong setting: the service waits for a directory or
a socket that is missing. An unknown variable with the prefix is a warning, since Kubernetes creates
such variables for a Service of that name (`enableServiceLinks: false` prevents it). A flag that
takes `true` or `false` means `true` if it has no value.

`EVENTS`, `NODE_CONDITION`, `STARTUP_TAINT` and `MODE=dra` call the API server: with the token of
the pod's service account, or, for development, by the files that `KUBECONFIG` names; which parts of
these count is listed in [Kubeconfig](cluster.md#kubeconfig).

| variable and flag | takes | default | meaning |
| --- | --- | --- | --- |
"""


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(f"{_row(*each)}\n" for each in Settings.model_json_schema()["properties"].items())


def _row(name: str, schema: Mapping[str, Any]) -> str:
    flag = "--" + name.replace("_", "-")
    cells = (f"`{variable(name)}` `{flag}`", _takes(schema), _default(schema), str(schema["description"]))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _default(schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    if default in ("", [], None):
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _takes(schema: Mapping[str, Any]) -> str:
    """Describe the allowed values in words."""
    if kinds := [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]:
        return _takes({**kinds[0], "default": ""})
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    kind = schema.get("type")
    if kind == "boolean":
        return "`true`, `false`"
    if kind in ("number", "integer"):
        least = (
            f"{schema['minimum']} to" if "minimum" in schema else f"above {schema['exclusiveMinimum']}, to"
        )
        return f"{'a whole number' if kind == 'integer' else 'a number'}, {least} {schema['maximum']}"
    if kind == "array":
        one = _takes(schema["items"]) if "enum" in schema["items"] else "absolute paths"
        return f"{one}, comma-separated"
    if schema.get("format") == "path":
        return "an absolute path" + (", or nothing" if schema.get("default") == "" else "")
    return str(schema.get("format", "text"))


def main(task: str) -> int:
    """Write the page, or check that it is up to date."""
    if task == "write":
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        print(f"{PAGE.name} differs from the settings: make docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
