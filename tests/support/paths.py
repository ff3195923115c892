"""Where the project and the data of its tests are."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
DATA = PROJECT / "tests" / "data"
