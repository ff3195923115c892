"""The steps of the README of plugin 1.3.0, with the names of this plugin."""

from .images import BUSYBOX
from .stage import Stage

# The pod of that README with corrected indentation, another resource name and another image. The lines at
# the end are for a node without registry and network plugin.
MYPOD = f"""\
apiVersion: v1
kind: Pod
metadata:
  name: mypod
spec:
  containers:
  - name: mypod
    image: {BUSYBOX}
    resources:
      limits:
        xilinx.com/fpga-xilinx_u200_xdma_201820_1-1535712995: 1
    command: ["/bin/sh"]
    args: ["-c", "while true; do echo hello; sleep 10;done"]
    imagePullPolicy: Never
  hostNetwork: true
  terminationGracePeriodSeconds: 1
"""
RESOURCE = "xilinx.com/fpga-xilinx_u200_xdma_201820_1-1535712995"


def test_commands_of_the_original_readme_work(empty_stage: Stage) -> None:
    stage = empty_stage
    card = stage.sample.add_card("u200-2018.3")
    stage.start_service()
    stage.node.wait_allocatable(RESOURCE, 1)

    # "Check FPGA resource in the worker node"
    assert stage.counts(RESOURCE) == (1, 1)
    # "Deploy user pod"
    stage.node.put_text("mypod", MYPOD)
    stage.pods.append("mypod")
    # "Check status of the deployed pod"
    status = stage.node.wait_pod("mypod", "Running")
    assert "hello" in stage.node.wait_logs("mypod", "hello", container="mypod")
    [container] = status.raw["spec"]["containers"]
    assert container["resources"]["limits"] == {RESOURCE: "1"}
    assert container["resources"]["requests"] == {RESOURCE: "1"}
    assert stage.held("mypod") == {card.address}
    # "Run hello world in the pod": that program first opens the card.
    identity = status.container("mypod")["containerID"].removeprefix("containerd://")
    node = str(card.render_node)
    said = stage.node.ctr(
        "tasks", "exec", "--exec-id", "look", identity, "sh", "-c", f": <{node} && echo open"
    )
    assert said.strip() == "open"
