"""kubelet keeps the grant of a container and reuses it at restarts of the container and of kubelet.

It does not call Allocate again, so changes of the node do not reach the container. These cases record the
behaviour of kubelet for docs/reference/compatibility.md; the plugin cannot influence it.
"""

from .namespace import wait_for
from .stage import U200, U250, Stage


def test_container_restart_reuses_the_grant(stage: Stage) -> None:
    name, first = stage.run_pod({U200: 1})
    held, asked = stage.held(name), stage.allocations()
    stage.node.kill_container(name)
    again = stage.wait_seen(name, starts=2)
    assert (again.cards, _variables(again.envs)) == (first.cards, _variables(first.envs))
    assert all(again.opened[node] == "ok" for node in again.cards)
    assert stage.held(name) == held
    assert stage.allocations() == asked


def test_container_restart_reuses_the_grant_while_the_service_is_down(stage: Stage) -> None:
    name, first = stage.run_pod({U200: 1})
    stage.service.terminate()
    stage.node.wait_allocatable(U200, 0)
    stage.node.kill_container(name)
    assert stage.wait_seen(name, starts=2).cards == first.cards


def test_kubelet_restart_reuses_the_grant(stage: Stage) -> None:
    name, _ = stage.run_pod({U200: 1})
    with stage.undisturbed(name):
        stage.node.kill_kubelet()
        stage.node.start_kubelet()
        stage.wait_all()
    assert stage.allocations() == 0, "the new kubelet asked for nothing"


def test_container_restart_fails_after_the_render_node_changed(
    stage: Stage,
) -> None:
    card = stage.cards[2]
    name, seen = stage.run_pod({U250: 1})
    [old] = seen.cards
    assert old == card.render_node
    card.reset_begin()
    card.reset_end(render=140)
    stage.wait_counts(U250, 1, 1)

    # A running container keeps the node of its creation and may open it again.
    stage.node.kill_container(name)
    waiting = wait_for(lambda: _waiting(stage, name), f"{name} waits", 20)
    assert waiting["reason"] in {"CreateContainerError", "RunContainerError"}
    assert old in waiting["message"]

    stage.node.remove(name)
    stage.pods.remove(name)
    _, seen = stage.run_pod({U250: 1})
    assert seen.cards == {card.render_node} == {"/dev/dri/renderD140"}


def test_container_restart_after_swapped_nodes_opens_the_other_card(stage: Stage) -> None:
    first, second, _ = stage.cards
    name, seen = stage.run_pod({U200: 1})
    [held] = stage.held(name)
    own, other = (first, second) if held == first.address else (second, first)
    [node] = seen.cards
    assert node == own.render_node
    own.reset_begin()
    other.reset_begin()
    other.reset_end(render=_number(node))
    own.reset_end(render=140)
    stage.wait_counts(U200, 2, 2)

    stage.node.kill_container(name)
    again = stage.wait_seen(name, starts=2)
    # The trap: the path of the old grant now belongs to another card than the variables name.
    assert again.cards == {node} == {other.render_node}
    assert _variables(again.envs) == _variables(seen.envs)
    assert stage.held(name) == {own.address}


def test_pod_survives_kubelet_restart_after_the_render_node_changed(
    stage: Stage,
) -> None:
    card = stage.cards[2]
    name, _ = stage.run_pod({U250: 1})
    with stage.undisturbed(name):
        card.reset_begin()
        stage.node.kill_kubelet()
        card.reset_end(render=140)
        stage.node.start_kubelet()
        stage.wait_all()
    stage.node.remove(name)
    stage.pods.remove(name)
    _, seen = stage.run_pod({U250: 1})
    assert seen.cards == {"/dev/dri/renderD140"}


def _variables(envs: object) -> dict[str, str]:
    assert isinstance(envs, dict)
    return {name: value for name, value in envs.items() if name.startswith("PCIDEVICE")}


def _waiting(stage: Stage, name: str) -> dict[str, str] | None:
    """Return why a container does not start, after an attempt of kubelet."""
    status = stage.node.pod(name)
    state = status.container().get("state", {}) if status else {}
    waiting: dict[str, str] = state.get("waiting", {})
    return waiting if waiting.get("reason", "").endswith("Error") else None


def _number(node: str) -> int:
    return int(node.removeprefix("/dev/dri/renderD"))
