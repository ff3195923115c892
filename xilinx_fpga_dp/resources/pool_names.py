"""The names of devices in the pool of the DRA driver. Pure."""

import hashlib
import re
from typing import Final

MAX_NAME: Final = 63  # characters of a DNS label
_HASH_DIGITS: Final = 8
PCI_ADDRESS: Final = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_PCI_NAME: Final = re.compile(r"pci-([0-9a-f]{4,8})-([0-9a-f]{2})-([01][0-9a-f])-([0-7])")


def device_name(address: str) -> str:
    """Make the name of a device of its address: ``pci-0000-65-00-1``. Never an index, which would change."""
    if PCI_ADDRESS.fullmatch(address):
        return "pci-" + re.sub("[:.]", "-", address)
    name = "dev-" + re.sub("[^a-z0-9]", "-", address.lower())
    return name.rstrip("-") if len(name) <= MAX_NAME else with_hash(name, address)


def device_names(address: str) -> tuple[str, str]:
    """Return the names that a device may have: the second one beside another device with the first.

    They are the same where the first one ends in a hash already.
    """
    name = device_name(address)
    return name, with_hash(name, address)


def address_of(name: str) -> str | None:
    """Return the PCI address that a name is made of; None if it is made of another one."""
    match = _PCI_NAME.fullmatch(name)
    return f"{match[1]}:{match[2]}:{match[3]}.{match[4]}" if match else None


def with_hash(name: str, original: str) -> str:
    """Return a name that ends in a hash of what it is made of."""
    digest = hashlib.sha256(original.encode(errors="surrogatepass")).hexdigest()[:_HASH_DIGITS]
    return f"{name[: MAX_NAME - _HASH_DIGITS - 1].rstrip('-')}-{digest}"
