"""Fuzzing, guided by coverage, of all code that reads text or bytes from outside (atheris, `make fuzz`)."""
