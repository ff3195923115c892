"""Says what is wrong with a manifest by Kubernetes' own schemas, strictly: an unknown field is wrong."""

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from tests.deploy.tools import kubernetes_schemas, operator_schema

_REF = "#/definitions/"
# Written as text or as a number, which OpenAPI 2 has no word for.
_EITHER = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]},
}


def complaint(document: Mapping[str, Any], kubernetes: str) -> str | None:
    """The worst that is wrong with a document on that release of Kubernetes, or None."""
    found = best_match(Draft202012Validator(_schema(document, kubernetes)).iter_errors(document))
    return f"{document['kind']} {found.json_path}: {found.message}" if found else None


def _schema(document: Mapping[str, Any], kubernetes: str) -> dict[str, Any]:
    group, _, version = document["apiVersion"].rpartition("/")
    kind = document["kind"]
    if group == "monitoring.coreos.com":
        return _strict(operator_schema(f"{kind.lower()}s"))
    wanted = {"group": group, "kind": kind, "version": version}
    definitions = kubernetes_schemas(kubernetes)
    [name] = [
        name
        for name, definition in definitions.items()
        if wanted in definition.get("x-kubernetes-group-version-kind", ())
    ]
    strict = {name: _strict(definition) for name, definition in definitions.items()}
    return {"$ref": _REF + name, "definitions": strict | _EITHER}


def _strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same schema, an object with named fields closed to all others."""
    made = {name: _strict_within(each) for name, each in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    # In a custom resource's own schema metadata is an object of which it says nothing.
    if "properties" in schema and "additionalProperties" not in schema:
        made["additionalProperties"] = False
    return made


def _strict_within(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _strict(value)
    return [_strict_within(each) for each in value] if isinstance(value, list) else value
