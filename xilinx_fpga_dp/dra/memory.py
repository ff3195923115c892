"""The memory of a card by its board, where a data sheet of AMD names it."""

from typing import Final

MEMORY: Final = {
    "u200": "64Gi",  # DDR4: DS962
    "u250": "64Gi",  # DDR4: DS962
    "u50": "8Gi",  # HBM2: DS965
    "u55c": "16Gi",  # HBM2: DS978
}
"""Quantities as Kubernetes writes them. A board with two kinds of memory is left out."""
