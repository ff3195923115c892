"""Input that coverage leads to, for all that reads text or bytes from outside; atheris, `make fuzz`."""
