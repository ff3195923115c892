"""The feature file, as node-feature-discovery reads it."""


def parse_features(text: str) -> dict[str, str]:
    """Parse as source/local/local.go: ``#`` begins a comment or directive, the first ``=`` separates."""
    assert len(text.encode()) <= 65536
    found = {}
    for line in text.split("\n"):
        if line.strip() and not line.strip().startswith("#"):
            name, equals, value = line.strip().partition("=")
            assert name not in found
            found[name] = value if equals else "true"
    return found
