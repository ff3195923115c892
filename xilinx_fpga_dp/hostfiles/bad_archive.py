"""The error of an archive, for code that does not read one: `archive` takes a while to load."""


class BadArchive(Exception):  # noqa: N818 - a mistake of the user
    """A file that is no capture. Carries why."""
