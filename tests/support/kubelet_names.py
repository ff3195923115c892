"""The rules of kubelet for resource names, written a second time."""

import re


def kubelet_takes(name: str) -> bool:
    """Return whether kubelet accepts a name, as apimachinery validates it."""
    if name.count("/") != 1 or "kubernetes.io/" in name or name.startswith("requests."):
        return False
    domain, rest = name.split("/")
    label = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    return (
        len("requests." + domain) <= 253
        and re.fullmatch(rf"{label}(\.{label})*", domain) is not None
        and 0 < len(rest) <= 63
        and re.fullmatch(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]", rest) is not None
    )
