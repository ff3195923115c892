"""Faults of kubelet, its directory and the sockets in it."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from tests.faults.fault import EVER, Catalogue, NotDone
from tests.faults.stage import SHELLS, Stage, own_namespaces, wait_until
from tests.support.process import remove

faults = Catalogue()
fault = faults.fault

ALL = " ".join(SHELLS)
# Seconds: the dial-back of kubelet takes up to 10 s inside Register, and the call up to 15 s.
HANGING_CALL = 16.0
# Seconds for the removal of the directory: the service waits 20 ms for kubelet.sock to vanish as well.
_AT_ONCE = 0.015


def no_mounts() -> str | None:
    return None if own_namespaces() else "no mount namespace of its own to mount in"


def shell(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


# kubelet


@fault("kubelet killed", touches=ALL, gap=EVER, place="kubelet")
def killed(stage: Stage) -> Iterator[None]:
    stage.kubelet_down()
    yield
    stage.kubelet_up()


@fault("kubelet restarted 10 times", touches=ALL, gap=EVER, place="kubelet", brief=True)
def restarted(stage: Stage) -> Iterator[None]:
    for number in range(10):
        stage.restart_kubelet()
        time.sleep(0.02 * number)
    yield


@fault("kubelet restarted 100 times", touches=ALL, gap=EVER, place="kubelet", long=True, brief=True)
def restarted_often(stage: Stage) -> Iterator[None]:
    for number in range(100):
        stage.restart_kubelet()
        time.sleep(0.01 * (number % 10))
    yield


@fault("kubelet hung in Register, killed", touches=ALL, gap=EVER, place="kubelet")
def hung_in_register_and_killed(stage: Stage) -> Iterator[None]:
    stage.kubelet.faults.register_hang = 60.0
    stage.restart_kubelet()
    yield
    stage.kubelet.faults.register_hang = 0.0
    stage.restart_kubelet()


@fault("kubelet hung in Register", touches=ALL, gap=EVER, back=HANGING_CALL, place="kubelet", long=True)
def hung_in_register(stage: Stage) -> Iterator[None]:
    stage.kubelet.faults.register_hang = 60.0
    stage.restart_kubelet()
    yield
    stage.kubelet.faults.register_hang = 0.0


@fault("kubelet hung in the dial-back, killed", touches=ALL, gap=EVER, place="kubelet")
def hung_in_the_dial_back_and_killed(stage: Stage) -> Iterator[None]:
    stage.kubelet.faults.dial_hang = 60.0
    stage.restart_kubelet()
    yield
    stage.kubelet.faults.dial_hang = 0.0
    stage.restart_kubelet()


@fault("kubelet hung in the dial-back", touches=ALL, gap=EVER, back=HANGING_CALL, place="kubelet", long=True)
def hung_in_the_dial_back(stage: Stage) -> Iterator[None]:
    stage.kubelet.faults.dial_hang = 60.0
    stage.restart_kubelet()
    yield
    stage.kubelet.faults.dial_hang = 0.0


@fault("kubelet registers and never lists", touches=ALL, gap=EVER, back=11.0, place="kubelet", long=True)
def never_lists(stage: Stage) -> Iterator[None]:
    stage.kubelet.faults.never_list = True
    stage.restart_kubelet()
    yield
    stage.kubelet.faults.never_list = False


@fault("kubelet answers errors", touches=ALL, gap=EVER, place="kubelet")
def answers_errors(stage: Stage) -> Iterator[None]:
    stage.kubelet.faults.refuse = grpc.StatusCode.UNKNOWN
    stage.restart_kubelet()
    yield
    stage.kubelet.faults.refuse = None


@fault("kubelet slow", touches=ALL, gap=EVER, place="kubelet")
def slow(stage: Stage) -> Iterator[None]:
    stage.kubelet.faults.register_hang = stage.kubelet.faults.list_delay = 0.3
    stage.restart_kubelet()
    yield
    stage.kubelet.faults.register_hang = stage.kubelet.faults.list_delay = 0.0


@fault("one stream cut, kubelet alive", touches="u250", gap=1.0, brief=True)
def one_stream_cut(stage: Stage) -> Iterator[None]:
    stage.cut("u250")
    yield


@fault("every stream cut, kubelet alive", touches=ALL, gap=1.0, brief=True)
def every_stream_cut(stage: Stage) -> Iterator[None]:
    stage.cut(*SHELLS)
    yield


# Its directory


@fault("directory removed, kubelet killed", touches=ALL, gap=EVER, place="directory")
def removed(stage: Stage) -> Iterator[None]:
    stage.kubelet_down()
    remove(stage.sockets)
    yield
    stage.sockets.mkdir(exist_ok=True)
    stage.kubelet_up()


def removed_at_once(stage: Stage) -> None:
    """Remove the directory within the time in which the service waits for kubelet.sock to vanish.

    Raises:
        NotDone: the removal took longer.
    """
    began = time.monotonic()
    remove(stage.sockets)
    if time.monotonic() - began > _AT_ONCE:
        raise NotDone("the directory was not removed fast enough")


@fault("directory removed, kubelet alive, restarted later", deaf=True, touches=ALL, place="directory")
def removed_beneath(stage: Stage) -> Iterator[None]:
    removed_at_once(stage)
    yield
    stage.sockets.mkdir(exist_ok=True)
    stage.restart_kubelet()


@fault("directory emptied, kubelet alive, restarted later", deaf=True, touches=ALL, place="directory")
def emptied(stage: Stage) -> Iterator[None]:
    removed_at_once(stage)
    stage.sockets.mkdir()
    yield
    stage.restart_kubelet()


@fault("directory renamed and renamed back, kubelet alive", deaf=True, place="directory")
def renamed_and_back(stage: Stage) -> Iterator[None]:
    away = stage.sockets.with_suffix(".away")
    stage.sockets.rename(away)
    yield
    if stage.sockets.exists():  # a kubelet started in between has created it
        remove(away)
    else:
        away.rename(stage.sockets)


@fault("directory renamed, kubelet restarts in a new one", touches=ALL, gap=EVER, place="directory")
def renamed(stage: Stage) -> Iterator[None]:
    away = stage.sockets.with_suffix(".away")
    stage.kubelet_down()
    stage.sockets.rename(away)
    yield
    stage.sockets.mkdir()
    stage.kubelet_up()
    remove(away)


@contextmanager
def mounted(stage: Stage, *options: str) -> Iterator[None]:
    """Mount something over the directory."""
    shell("mount", *options, str(stage.sockets))
    yield
    shell("umount", "--lazy", str(stage.sockets))  # lazy: an open socket keeps it busy


@fault("directory read-only, kubelet alive", deaf=True, place="directory", missing=no_mounts)
def read_only(stage: Stage) -> Iterator[None]:
    with mounted(stage, "--bind", str(stage.sockets)):
        shell("mount", "-o", "remount,ro,bind", str(stage.sockets))
        yield


@fault("directory read-only, streams cut", touches=ALL, gap=EVER, place="directory", missing=no_mounts)
def read_only_and_cut(stage: Stage) -> Iterator[None]:
    with mounted(stage, "--bind", str(stage.sockets)):
        shell("mount", "-o", "remount,ro,bind", str(stage.sockets))
        stage.cut(*SHELLS)
        yield


@fault("directory full, streams cut", touches=ALL, gap=EVER, place="directory", missing=no_mounts)
def full(stage: Stage) -> Iterator[None]:
    stage.kubelet_down()
    with mounted(stage, "-t", "tmpfs", "-o", "size=64k,nr_inodes=24", "tmpfs"):
        stage.kubelet_up()
        wait_until(stage.all_full, 5)
        fillers = _fill(stage.sockets)
        stage.cut(*SHELLS)
        yield
        for path in fillers:
            path.unlink(missing_ok=True)
        back = wait_until(stage.all_full, 1.2)
        stage.kubelet_down()
    stage.kubelet_up()
    assert back or stage.paired, "not back 1.2 s after the directory had room again"


def _fill(directory: Path) -> list[Path]:
    made = []
    for number in range(1000):
        path = directory / f"filler-{number}"
        try:
            path.touch()
        except OSError:
            break
        made.append(path)
    return made


@fault("directory replaced by another mount", touches=ALL, gap=EVER, place="directory", missing=no_mounts)
def replaced(stage: Stage) -> Iterator[None]:
    stage.kubelet_down()
    with mounted(stage, "-t", "tmpfs", "tmpfs"):
        stage.kubelet_up()
        yield
        stage.kubelet_down()
    stage.kubelet_up()


@fault("directory mounted over, kubelet alive", deaf=True, place="directory", missing=no_mounts)
def mounted_over(stage: Stage) -> Iterator[None]:
    with mounted(stage, "-t", "tmpfs", "tmpfs"):
        yield
    if stage.kubelet_restarted:  # kubelet.sock was in the mount
        stage.restart_kubelet()


# The sockets in it


@fault("every socket of the service unlinked", touches=ALL, gap=1.0, place="sockets", brief=True)
def unlinked(stage: Stage) -> Iterator[None]:
    for path in stage.own_sockets():
        path.unlink(missing_ok=True)
    yield


@fault("one socket of the service unlinked", touches="u250", gap=1.0, place="sockets", brief=True)
def one_unlinked(stage: Stage) -> Iterator[None]:
    for path in stage.own_sockets("u250"):
        path.unlink(missing_ok=True)
    yield


@fault("one socket of the service replaced by another's", touches="u250", gap=1.0, place="sockets")
def usurped(stage: Stage) -> Iterator[None]:
    path = stage.endpoint("u250")
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        yield
    path.unlink(missing_ok=True)


@fault("a dead instance's socket left behind", place="other sockets", brief=True)
def stale(stage: Stage) -> Iterator[None]:
    aside = stage.sockets / "aside"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(aside))
        dead.listen()
    aside.rename(stage.sockets / "dead-fpga.sock")  # it is dead when it becomes visible
    yield


@fault("a live socket of another program", place="other sockets")
def other_program(stage: Stage) -> Iterator[None]:
    path = stage.sockets / "other-program-fpga.sock"
    aside = stage.sockets / "aside"
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(aside))
        alive.listen()
        aside.rename(path)  # it is live when it becomes visible
        yield
        swept = not path.exists() and stage.sockets.exists()
    path.unlink(missing_ok=True)
    assert not swept or stage.kubelet_restarted, "a live socket was removed"
