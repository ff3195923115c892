"""Finds the command, parses its flags and runs it. Only the module of the command that runs is imported."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import NoReturn

from xilinx_fpga_dp import process
from xilinx_fpga_dp.cli import COMMANDS
from xilinx_fpga_dp.cli.command import BadUse, Command
from xilinx_fpga_dp.cli.errors import exit_code
from xilinx_fpga_dp.hostfiles.bad_archive import BadArchive
from xilinx_fpga_dp.settings import BadSettings, variable
from xilinx_fpga_dp.settings_model import Settings

_PROGRAM = "xilinx-fpga-dp"
_FLAGS = {f"--{name.replace('_', '-')}": name for name in Settings.model_fields}
_BOOLEAN_FLAGS = {flag for flag, name in _FLAGS.items() if Settings.model_fields[name].annotation is bool}
_BOOLEANS = frozenset({"true", "false", "1", "0", "yes", "no", "on", "off"})


class _Parser(argparse.ArgumentParser):
    """A parser that raises `BadUse` instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise BadUse(message)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A command line: the command with its options and settings."""

    command: Command
    options: argparse.Namespace
    settings: Settings


def main(arguments: Sequence[str]) -> int:
    """Run a command and return the exit code: 2, with a line each on stderr, for bad use and bad settings."""
    name = _split(arguments)[0] or "run"
    try:
        return exit_code(name, partial(_run, name, arguments))
    except (BadUse, BadSettings, BadArchive) as error:
        print(error, file=sys.stderr)
        return 2


def _run(name: str, arguments: Sequence[str]) -> int:
    parsed = parse(arguments)
    if name != "run":
        process.become_command()
    return parsed.command.run(parsed.settings, parsed.options)


def parse(arguments: Sequence[str]) -> Parsed:
    """Parse a command line and read the settings.

    Raises:
        BadUse: it is not valid.
        BadSettings: some settings cannot be used.
        SystemExit: it asked for help, which has been printed.
    """
    given, words = _split(arguments)
    command = load(given or "run")
    options = _parse(given, command, words)
    flags = {field: text for field, text in vars(options).items() if field in Settings.model_fields}
    settings = (
        Settings.load(flags, own_cluster=command.own_cluster)
        if command.settings
        else Settings.model_construct()
    )
    return Parsed(command, options, settings)


def load(name: str) -> Command:
    """Import the module of a command."""
    command: Command = import_module(f"{__package__}.{name}").COMMAND
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
