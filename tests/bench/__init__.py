"""How fast and how big the service is, seen from outside, each figure next to a reference of the same run.

``python -m tests.bench`` measures all rows, ``python -m tests.bench NAME...`` some; docs/performance.md has
the last results.
"""
