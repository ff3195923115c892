"""A registry on the node, which stands for all registries: a test reaches none of the internet."""

from pathlib import Path

from ..build import build_program, call
from ..host import get
from ..namespace import wait_for
from .cluster import NODE_ADDRESS, Cluster

_PORT = 5000


class Registry:
    """A running registry.

    containerd pulls every image from it, by whatever name: of the name of an image only the path counts.

    Attributes:
        name: of this registry in the name of an image.
    """

    name = f"{NODE_ADDRESS}:{_PORT}"

    def __init__(self, cluster: Cluster) -> None:
        self._crane = build_program("crane", "github.com/google/go-containerregistry", "0.22.1", "cmd/crane")
        store = cluster.folder / "registry"
        store.mkdir()
        # The hosts.toml of all registries that have none of their own (containerd's
        # core/remotes/docker/config).
        mirrors = cluster.folder / "registries" / "_default"
        mirrors.mkdir(parents=True)
        (mirrors / "hosts.toml").write_text(
            f'[host."http://{self.name}"]\ncapabilities = ["pull", "resolve"]\n'
        )
        # So that buildah speaks plain HTTP to it.
        self._config = cluster.folder / "registries.conf"
        self._config.write_text(f'[[registry]]\nlocation = "{self.name}"\ninsecure = true\n')
        serve = ["registry", "serve", "--address", self.name, "--disk", str(store)]
        cluster.spawn("registry", [self._crane, *serve])
        wait_for(lambda: get(f"http://{self.name}/v2/", 5) or True, "registry", 30)

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which buildah pushes to it."""
        return {"CONTAINERS_REGISTRIES_CONF": str(self._config)}

    def push(self, archive: Path, image: str) -> None:
        """Push the image of an archive; `image` is a path and a tag."""
        call([str(self._crane), "push", "--insecure", str(archive), f"{self.name}/{image}"])

    def tag(self, image: str, tag: str) -> None:
        """Give an image, a path and a tag, another tag."""
        call([str(self._crane), "tag", "--insecure", f"{self.name}/{image}", tag])
