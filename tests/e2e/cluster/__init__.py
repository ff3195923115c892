"""A whole cluster on this machine, and the tests that run in it."""
