"""``list --watch`` on a terminal, and piped."""

import signal
import subprocess

import pytest

from tests.support.process import COMMAND, clean_environment
from tests.support.running import settings_for
from tests.support.terminal import Terminal
from tests.support.waiting import wait_for
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode, XrtCard

WATCH = (*COMMAND, "list", "--watch")


@pytest.fixture
def cards(node: SampleNode) -> list[XrtCard]:
    node.sensors = True
    return [node.add_card("u200", release="2023.2") for _ in range(4)]


def row(terminal: Terminal, card: XrtCard) -> str:
    return next((line for line in terminal.shown() if line.startswith(card.address)), "")


class TestOnATerminal:
    def test_table_is_redrawn_in_place(self, node: SampleNode, cards: list[XrtCard]) -> None:
        with Terminal(WATCH, settings_for(node), columns=200) as terminal:
            wait_for(lambda: "  Healthy  " in row(terminal, cards[-1]), "the whole table")
            cards[1].offline()
            wait_for(lambda: "Unhealthy (offline)" in row(terminal, cards[1]), "the changed row")
            shown = terminal.shown()
            assert [line for line in shown if line.startswith("DEVICE")] == shown[:1]
            assert len(shown) == 1 + len(cards)
            cards[1].mend()
            wait_for(lambda: "  Healthy  " in row(terminal, cards[1]), "it is mended")
            assert "offline" not in "".join(terminal.shown()), "nothing is left of the longer row"
            assert not any(terminal.scrolled)
            assert not terminal.wrapped

    def test_wide_table_follows_the_sensors(self, node: SampleNode, cards: list[XrtCard]) -> None:
        command = (*WATCH, "--output", "wide")
        with Terminal(command, settings_for(node), columns=200) as terminal:
            wait_for(lambda: "28.0 W  41 C  8 GT/s x16" in row(terminal, cards[0]), "its sensors")
            cards[0].train_link(8)
            cards[0].work(1)
            wait_for(lambda: "90.0 W  63 C  8 GT/s x8 of 8 x16" in row(terminal, cards[0]), "as they are now")

    def test_lines_are_cut_to_a_narrow_terminal(self, node: SampleNode, cards: list[XrtCard]) -> None:
        with Terminal(WATCH, settings_for(node), columns=40) as terminal:
            wait_for(lambda: row(terminal, cards[-1]), "the whole table")
            assert all(len(line) == 40 for line in terminal.shown())
            assert all(line.endswith(">") for line in terminal.shown())
            assert not terminal.wrapped

    def test_table_fits_a_window_that_changes_its_size(self, node: SampleNode, cards: list[XrtCard]) -> None:
        with Terminal(WATCH, settings_for(node), columns=200) as terminal:
            wait_for(lambda: row(terminal, cards[-1]), "the whole table")
            terminal.resize(60, 4)
            wait_for(lambda: terminal.shown()[-1:] == ["... 3 more lines"], "the count of the others")
            assert len(terminal.shown()) == 3
            terminal.resize(200, 24)
            wait_for(lambda: row(terminal, cards[-1]).endswith("-1561465320"), "the whole table again")
            terminal.resize(1, 2)
            wait_for(lambda: terminal.shown() == [">"], "what fits")

    def test_interrupt_ends_it_below_the_table(self, node: SampleNode, cards: list[XrtCard]) -> None:
        with Terminal(WATCH, settings_for(node), columns=200) as terminal:
            wait_for(lambda: row(terminal, cards[-1]), "the whole table")
            terminal.interrupt()
            assert terminal.process.wait(30) == 0
            wait_for(lambda: terminal.shown()[-1] == "^C", "the echo of the terminal")
            assert len(terminal.shown()) == 1 + len(cards) + 1

    def test_unreadable_bus_is_a_line_of_the_table(self, node: SampleNode, cards: list[XrtCard]) -> None:
        with Terminal(WATCH, settings_for(node), columns=200) as terminal:
            wait_for(lambda: row(terminal, cards[-1]), "the whole table")
            node.files.drop(f"{node.sysfs_root}/bus")
            wait_for(lambda: "nothing found" in "".join(terminal.shown()), "the problem")
            assert terminal.shown()[0] == "no device to offer"


class TestPiped:
    def test_terminal_without_a_cursor_gets_a_table_when_something_changes(
        self, node: SampleNode, cards: list[XrtCard]
    ) -> None:
        command = ("env", "TERM=dumb", *WATCH)
        with Terminal(command, settings_for(node), columns=200, lines=100) as terminal:
            wait_for(lambda: row(terminal, cards[-1]), "the first table")
            cards[0].offline()
            wait_for(
                lambda: len([line for line in terminal.shown() if line.startswith("DEVICE")]) == 2,
                "a second table below the first one",
            )

    def test_problem_is_told_once(self, node: SampleNode, cards: list[XrtCard]) -> None:
        with subprocess.Popen(
            WATCH,
            env=clean_environment(settings_for(node)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as watch:
            assert watch.stdout
            assert watch.stderr
            lines = iter(watch.stdout.readline, "")
            assert [next(lines) for _ in range(2 + len(cards))][-1] == "\n"
            node.files.drop(f"{node.sysfs_root}/bus")
            assert next(lines) == "no device to offer\n"
            node.files.put(f"{node.sysfs_root}/bus", {"pci": {"devices": {}}})
            errors = iter(watch.stderr.readline, "")
            assert next(errors).startswith("nothing found: ")
            assert next(errors) == "found again\n"
            watch.send_signal(signal.SIGTERM)
            assert watch.wait(30) == 0
            assert watch.stderr.read() == ""
