"""The command line: finds the command, parses its flags and runs it.

A command is a module of this package with a ``COMMAND``, and a line in `COMMANDS`. Only the module of the
command that runs is imported. The import binds its name here: ``list`` may be that module, not the builtin.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import NoReturn

from xilinx_fpga_dp import process
from xilinx_fpga_dp.cli.command import BadUse, Command
from xilinx_fpga_dp.hostfiles.archive import BadArchive
from xilinx_fpga_dp.settings import BadSettings, Settings, variable

COMMANDS = {
    "run": "discover, register, serve and watch until SIGTERM or SIGINT (the default)",
    "list": "scan once; show every device, and every function left out with the reason",
    "diagnose": "check this node; each line that is not ok ends with the remedy",
    "explain": "show what Allocate would answer for these device ids, or why it would refuse",
    "capture": "pack what may safely be read of this node into an archive for a bug report",
    "simulate": "run the whole job on this machine, with a sample node and an embedded kubelet",
    "version": "show name and version",
}
"""The summary of each command, by name. The name is also that of its module."""

_PROGRAM = "xilinx-fpga-dp"
_FLAGS = {f"--{name.replace('_', '-')}": name for name in Settings.model_fields}
_BOOLEAN_FLAGS = {flag for flag, name in _FLAGS.items() if Settings.model_fields[name].annotation is bool}
_BOOLEANS = frozenset({"true", "false", "1", "0", "yes", "no", "on", "off"})


class _Parser(argparse.ArgumentParser):
    """A parser that raises `BadUse` instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise BadUse(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 2, with a line each on stderr, for bad use and bad settings."""
    given, words = _split(sys.argv[1:] if arguments is None else arguments)
    name = given or "run"
    try:
        command = load(name)
        options = _parse(given, command, words)
        flags = {field: text for field, text in vars(options).items() if field in Settings.model_fields}
        settings = Settings.load(flags) if command.settings else Settings.model_construct()
        if name != "run":
            process.become_command()
        code = command.run(settings, options)
        if sys.stdout:  # None where it is closed
            sys.stdout.flush()
    except (BadUse, BadSettings, BadArchive) as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # `list | head`
        _discard_output()
        return 0
    except OSError as error:  # a full disk behind `list > file`
        where = f": {error.filename}" if error.filename else ""
        print(f"{name}: {error.strerror}{where}", file=sys.stderr)
        _discard_output()
        return 1
    return code


def _discard_output() -> None:
    """Drop the output that is still buffered; else Python reports an error when it exits."""
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), sys.stdout.fileno())


def load(name: str) -> Command:
    """Import the module of a command."""
    command: Command = import_module(f"{__name__}.{name}").COMMAND
    return command


def _split(arguments: Iterable[str]) -> tuple[str | None, Sequence[str]]:
    """Take the command out of the arguments: flags may stand before it. None if there is no command.

    A flag that is true or false may lack a value. It gets one here, or it would take the word behind it.
    """
    command = None
    words = [""]
    for word in (*arguments, ""):
        if words[-1] in _BOOLEAN_FLAGS and word.lower() not in _BOOLEANS:
            words[-1] += "=true"
        if command is None and word in COMMANDS and words[-1] not in _FLAGS:
            command = word
        else:
            words.append(word)
    return command, words[1:-1]


def _parse(given: str | None, command: Command, words: Sequence[str]) -> argparse.Namespace:
    program, parser = _parsers(given or "run", command)
    if given is None and not {"-h", "--help"}.isdisjoint(words):
        _add_settings(program, command)  # only its help shows them
        program.parse_args(["--help"])  # exits
    try:
        options, rest = parser.parse_known_intermixed_args(words)
    except argparse.ArgumentError as error:
        raise BadUse(_problem(error)) from None
    unknown = next((word for word in rest if word != "--"), None)
    if unknown is not None:
        raise BadUse(_unknown(given, unknown))
    return options


def _unknown(given: str | None, word: str) -> str:
    """Return the message about a word that the command does not accept."""
    if word.startswith("-"):
        option = word.partition("=")[0]
        if owners := [name for name in COMMANDS if option in load(name).options]:
            return f"{option}: only with {', '.join(owners)}"
        return f"{word}: no such option (see --help)"
    if given is None:
        return f"{word!r} is no command; there are {', '.join(COMMANDS)}"
    return f"{word!r}: {given} takes no such argument (see --help)"


def _problem(error: argparse.ArgumentError) -> str:
    """Return the message about an option that lacks a value or has a wrong one."""
    # by the first word of argparse's message
    known = {"expected": "needs a value (see --help)", "ignored": "takes no value (see --help)"}
    message = known.get(error.message.partition(" ")[0], error.message)
    flag = str(error.argument_name)
    prefix = f"{variable(_FLAGS[flag])}: " if flag in _FLAGS else ""
    return f"{prefix}{flag}: {message}"


def _parsers(chosen: str, command: Command) -> tuple[_Parser, _Parser]:
    """Build the parser of the program, which lists all commands, and that of the chosen command."""
    program = _Parser(
        usage=f"{_PROGRAM} [COMMAND] [OPTION]...",
        description="Kubernetes device plugin for Xilinx/AMD FPGA cards.",
    )
    commands = program.add_subparsers(title="commands", metavar="COMMAND", prog=_PROGRAM)
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, description=text, allow_abbrev=False, exit_on_error=False)
    parser: _Parser = commands.choices[chosen]
    parser.usage = "%(prog)s [OPTION]..."
    for option, keywords in command.options.items():
        action = parser.add_argument(option, **keywords)
        parser.usage += "" if action.option_strings else f" {action.metavar}..."
    _add_settings(parser, command)
    return program, parser


def _add_settings(parser: argparse.ArgumentParser, command: Command) -> None:
    """Accept the flag of every setting; the help shows those that the command uses."""
    group = parser.add_argument_group("settings, each also an environment variable")
    for flag, name in _FLAGS.items():
        field = Settings.model_fields[name]
        shown = f"{field.description} [{variable(name)}, default {field.default}]".replace("%", "%%")
        group.add_argument(
            flag,
            dest=name,
            default=argparse.SUPPRESS,
            metavar="[VALUE]" if flag in _BOOLEAN_FLAGS else "VALUE",
            help=shown if name in command.settings else argparse.SUPPRESS,
        )
