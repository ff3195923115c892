"""Benchmarks: time and memory of the service from outside, with a reference value of the same run.

``python -m tests.bench`` measures all rows, ``python -m tests.bench NAME...`` some of them.
docs/development/performance.md has the last results.
"""
