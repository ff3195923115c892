"""The way in: commands and flags. Every setting is a flag, before or after the command."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from xilinx_fpga_dp import __version__, process
from xilinx_fpga_dp.settings import BadSettings, Settings, unknown_variables, variable

_OK = 0
_REFUSED = 1
_BAD_USE = 2


class _BadUse(Exception):  # noqa: N818 - the user's, not ours
    """A command line that can't be understood."""


class _Parser(argparse.ArgumentParser):
    """argparse without its own words: what is wrong is said in ours, in one line."""

    def error(self, message: str) -> NoReturn:
        raise _BadUse(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code. Bad use and bad settings: 2, a line each on stderr."""
    try:
        options = _parsed(list(sys.argv[1:] if arguments is None else arguments))
        flags = {
            name: value
            for name in Settings.model_fields
            if (value := getattr(options, name, None)) is not None
        }
        settings = None if options.command == "version" else Settings.load(flags)
    except BadSettings as bad:
        print(*bad.lines, sep="\n", file=sys.stderr)
        return _BAD_USE
    except _BadUse as bad:
        print(bad, file=sys.stderr)
        return _BAD_USE
    if options.command != "run":
        process.become_command()
    try:
        code = _version() if settings is None else _COMMANDS[options.command](settings, options)
        if sys.stdout:  # None where it is closed
            sys.stdout.flush()
    except BrokenPipeError:  # `list | head`
        _leave_output()
        return _OK
    except OSError as error:  # a full disk behind `list > file`
        where = f": {error.filename}" if error.filename else ""
        print(f"{options.command}: {error.strerror}{where}", file=sys.stderr)
        _leave_output()
        return _REFUSED
    return code


def _leave_output() -> None:
    """Let what could not be written go nowhere; Python would complain of it at its end."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _version() -> int:
    print(f"xilinx-fpga-dp {__version__}")
    return _OK


def _run(settings: Settings, _options: argparse.Namespace) -> int:
    # Imported here, so that `version` or a bad setting does not pay for a gRPC stack.
    from xilinx_fpga_dp.observe import logs  # noqa: PLC0415
    from xilinx_fpga_dp.service import Service  # noqa: PLC0415

    async def serve() -> None:
        await Service(settings).run()

    process.become_service()
    logs.set_up(settings.log_level, settings.log_format)
    asyncio.run(serve())
    return _OK


def _list(settings: Settings, options: argparse.Namespace) -> int:
    from xilinx_fpga_dp.discovery.scanner import ScanFailed  # noqa: PLC0415
    from xilinx_fpga_dp.model import Held, Offers  # noqa: PLC0415
    from xilinx_fpga_dp.observe import logs, state  # noqa: PLC0415
    from xilinx_fpga_dp.wiring import look_once, scanner_of  # noqa: PLC0415

    async def look() -> tuple[Offers, Held]:
        return await look_once(settings, scanner_of(settings))

    logs.set_up("error", settings.log_format)
    try:
        offers, held = asyncio.run(look())
    except ScanFailed as error:
        print(f"nothing found: {error}", file=sys.stderr)
        offers, held = Offers({}), {}
    if options.output == "json":
        print(json.dumps(state.document(offers, expose_mgmt=settings.expose_mgmt, held=held), indent=2))
    else:
        print(state.table(offers, expose_mgmt=settings.expose_mgmt))
    return _OK


def _diagnose(settings: Settings, options: argparse.Namespace) -> int:
    from xilinx_fpga_dp.cli.diagnose import checks as diagnose  # noqa: PLC0415
    from xilinx_fpga_dp.cli.diagnose import collect as examine  # noqa: PLC0415
    from xilinx_fpga_dp.model import Offers  # noqa: PLC0415
    from xilinx_fpga_dp.observe import logs  # noqa: PLC0415
    from xilinx_fpga_dp.wiring import look_once, scanner_of  # noqa: PLC0415

    async def scan() -> Offers:
        return (await look_once(settings, scanner_of(settings)))[0]

    logs.set_up("error", settings.log_format)
    written = [("CDI_DIR", settings.cdi_dir)] if settings.device_strategy != "device-specs" else []
    written += [("NFD_FEATURES_DIR", settings.nfd_features_dir)] if settings.nfd_features_dir else []
    places = examine.Places(
        sysfs_root=settings.sysfs_root,
        dev_root=settings.dev_root,
        host_root=settings.host_root,
        socket_dir=settings.socket_dir,
        pod_resources_socket=settings.pod_resources_socket,
        http_address=settings.http_address,
        written=tuple(written),
        extra_mounts=settings.extra_mounts,
        expose_mgmt=settings.expose_mgmt,
        unknown=tuple(unknown_variables(os.environ)),
    )
    lines = diagnose.lines(asyncio.run(examine.look(places, scan)))
    as_json = json.dumps(diagnose.as_document(lines), indent=2)
    print(as_json if options.output == "json" else diagnose.as_text(lines))
    return _REFUSED if diagnose.worst(lines) is diagnose.Level.FAIL else _OK


def _explain(settings: Settings, options: argparse.Namespace) -> int:
    from xilinx_fpga_dp.cli import explain  # noqa: PLC0415
    from xilinx_fpga_dp.discovery.scanner import ScanFailed  # noqa: PLC0415
    from xilinx_fpga_dp.model import Device, Grant  # noqa: PLC0415
    from xilinx_fpga_dp.observe import logs  # noqa: PLC0415
    from xilinx_fpga_dp.resources.allocator import Answer, Code, Refusal  # noqa: PLC0415
    from xilinx_fpga_dp.wiring import allocator_of, look_once, scanner_of  # noqa: PLC0415

    async def ask() -> tuple[Answer, Grant]:
        async def written(_devices: tuple[Device, ...]) -> bool:
            return True  # the service writes the spec; here it is only said what it would be

        scanner = scanner_of(settings)
        offers, _ = await look_once(settings, scanner)
        grants = allocator_of(settings, scanner, lambda: offers.devices, written)
        return await explain.answer_for(offers, grants, options.ids)

    logs.set_up("warning", settings.log_format)
    try:
        answer, grant = asyncio.run(ask())
    except (Refusal, ScanFailed) as error:
        refusal = error if isinstance(error, Refusal) else Refusal(Code.NOT_FOUND, str(error))
        as_json = json.dumps(explain.as_refusal(refusal), indent=2)
        print(as_json if options.output == "json" else f"refused, {refusal.code.name}: {refusal.sentence}")
        return _REFUSED
    as_json = json.dumps(explain.as_document(grant), indent=2)
    print(as_json if options.output == "json" else explain.as_text(answer, grant))
    return _OK


def _simulate(settings: Settings, options: argparse.Namespace) -> int:
    from xilinx_fpga_dp.simulate import demo  # noqa: PLC0415

    if options.node is not None:
        return demo.build_node(options.node, options.board)
    return asyncio.run(demo.run_demo(settings, options.board, once=options.once))


_COMMANDS: dict[str, Callable[[Settings, argparse.Namespace], int]] = {
    "run": _run,
    "list": _list,
    "diagnose": _diagnose,
    "explain": _explain,
    "simulate": _simulate,
}
COMMANDS = (*_COMMANDS, "version")
"""The names of all commands."""


# Options of single commands, and their help.
_OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "output": (
        ("list", "diagnose", "explain"),
        "table (list) or text (the others), the defaults, or json",
    ),
    "once": (("simulate",), "play the story and end"),
    "board": (("simulate",), "a card of the sample node; may be repeated"),
    "node": (("simulate",), "only build the sample node in this directory"),
}
_TRUE_OR_FALSE = frozenset({"true", "false", "1", "0", "yes", "no", "on", "off"})


def _parsed(arguments: list[str]) -> argparse.Namespace:
    try:
        options, unknown = _parser().parse_known_intermixed_args(_with_values(arguments))
    except argparse.ArgumentError as error:
        wrong = "needs a value" if "expected" in error.message else "takes no value"
        name = str(error.argument_name)
        field = name.removeprefix("--").replace("-", "_")
        setting = f"{variable(field)}: " if field in Settings.model_fields else ""
        raise _BadUse(f"{setting}{name}: {wrong} (see --help)") from None
    if unknown:
        raise _BadUse(f"{unknown[0]}: no such option (see --help)")
    words = options.words or ["run"]
    options.command = words[0]
    if options.command not in COMMANDS:
        raise _BadUse(f"{options.command!r} is no command; there are {', '.join(COMMANDS)}")
    options.ids = words[1:] if options.command == "explain" else []
    if options.command == "explain" and not options.ids:
        raise _BadUse("explain: which device ids? `list` shows them")
    if words[1:] and not options.ids:
        raise _BadUse(f"{words[1]!r}: {options.command} takes no such argument (see --help)")
    for name, (commands, _) in _OPTIONS.items():
        value = getattr(options, name)
        if value not in (None, False, []) and options.command not in commands:
            raise _BadUse(f"--{name}: only with {', '.join(commands)}")
    formats = ("table" if options.command == "list" else "text", "json")
    if options.output is not None and options.output not in formats:
        raise _BadUse(f"--output: must be one of {', '.join(formats)} (it is {options.output!r})")
    return options


def _with_values(arguments: list[str]) -> list[str]:
    """Give a true-or-false flag that stands alone its value, so that all flags are alike."""
    switches = {_flag(name) for name, field in Settings.model_fields.items() if field.annotation is bool}
    joined: list[str] = []
    for word in arguments:
        if joined and joined[-1] in switches:
            joined[-1] += "=true"
            if word.lower() in _TRUE_OR_FALSE:
                joined[-1] = joined[-1].replace("=true", f"={word}")
                continue
        joined.append(word)
    if joined and joined[-1] in switches:
        joined[-1] += "=true"
    return joined


def _parser() -> _Parser:
    parser = _Parser(
        prog="xilinx-fpga-dp",
        description="Kubernetes device plugin for Xilinx/AMD FPGA cards.",
        epilog=f"commands: {', '.join(COMMANDS)} (default: run)",
        allow_abbrev=False,
        exit_on_error=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="COMMAND", help="run, list, ...; default: run")
    own = parser.add_argument_group("options of single commands")
    own.add_argument("--output", help=_help("output"))
    own.add_argument("--once", action="store_true", help=_help("once"))
    own.add_argument("--board", action="append", default=[], metavar="NAME", help=_help("board"))
    own.add_argument("--node", metavar="DIR", help=_help("node"))
    settings = parser.add_argument_group("settings, each also an environment variable")
    for name, field in Settings.model_fields.items():
        settings.add_argument(
            _flag(name),
            dest=name,
            metavar="VALUE",
            help=f"{field.description} [{variable(name)}, default {field.default}]".replace("%", "%%"),
        )
    return parser


def _help(option: str) -> str:
    commands, text = _OPTIONS[option]
    return f"{', '.join(commands)}: {text}"


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")
