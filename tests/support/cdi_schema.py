"""The schema of CDI specs, as the CDI project publishes it, release 0.8.1."""

import json
from typing import Any

from jsonschema import Draft7Validator
from referencing import Registry
from referencing.jsonschema import DRAFT7

from tests.support.paths import DATA

_SCHEMAS = DATA / "cdi"


def validate_spec(document: Any) -> None:
    """Check a spec against the published schema.

    Raises:
        jsonschema.ValidationError: it is not a valid spec.
    """
    defs = DRAFT7.create_resource(json.loads((_SCHEMAS / "defs.json").read_text()))
    schema = json.loads((_SCHEMAS / "schema.json").read_text())
    Draft7Validator(schema, registry=Registry().with_resource("defs.json", defs)).validate(document)
