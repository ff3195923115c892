"""Start a cluster and keep it until Ctrl-C or SIGTERM: `make cluster ARGS=--hold`."""

import argparse
import logging
import os
import signal
import sys

from ..build import install_packages, programs
from ..image import PACKAGES as IMAGE_PACKAGES
from ..image import build_image
from .cluster import PACKAGES, Cluster
from .deployed import IMAGE


def main() -> None:
    """Start a cluster with two U200 and a U250, print how to reach it, and wait for a signal."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(prog="make cluster", description=main.__doc__)
    parser.add_argument(
        "--hold", action="store_true", help="as here; without it, `make cluster` runs the tests"
    )
    parser.add_argument("--image", action="store_true", help="build the project's image and import it")
    parser.add_argument("--kubernetes", default=os.environ.get("KUBERNETES", ""), metavar="1.Y")
    parser.add_argument(
        "--kubelet", default=os.environ.get("KUBELET", ""), metavar="1.Y", help="of the node, if another"
    )
    parser.add_argument(
        "--emulated-version",
        default=os.environ.get("EMULATED_VERSION", ""),
        metavar="1.Y",
        help="show the API of an older minor",
    )
    options = parser.parse_args()
    # A background process of a script ignores SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    built, plane = programs(options.kubernetes, options.kubelet)
    install_packages(PACKAGES | (IMAGE_PACKAGES if options.image else {}))
    try:
        with Cluster(built, plane, emulated_version=options.emulated_version) as cluster:
            cluster.add_cards()
            if options.image:
                cluster.ctr("images", "import", build_image(IMAGE, cluster.folder).archive)
            sys.stdout.write(
                f"Kubernetes {built.kubernetes}, until Ctrl-C or SIGTERM to pid {os.getpid()}.\n"
                f"export KUBECONFIG={cluster.kubeconfig()} PATH={plane.programs}:$PATH\n"
            )
            sys.stdout.flush()
            signal.pause()
    except KeyboardInterrupt:
        sys.stdout.write("ended\n")


if __name__ == "__main__":
    main()
