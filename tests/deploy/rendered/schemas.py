"""Validates manifests by the schemas of Kubernetes, and refuses unknown fields."""

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from tests.deploy.tools import kubernetes_schemas, operator_schema

_REF = "#/definitions/"
# Text or a number, which OpenAPI 2 cannot express.
_EITHER = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]},
}

# Of APIs whose modules are not fetched: security/v1/types.go of OpenShift's api, api/nfd/v1alpha1/types.go of
# node-feature-discovery.
_TEXTS = {"type": "array", "items": {"type": "string"}}
_FLAGS = (
    "allowHostDirVolumePlugin",
    "allowHostIPC",
    "allowHostNetwork",
    "allowHostPID",
    "allowHostPorts",
    "allowPrivilegedContainer",
    "readOnlyRootFilesystem",
)
_LISTS = ("allowedCapabilities", "requiredDropCapabilities", "volumes")
_STRATEGIES = ("runAsUser", "seLinuxContext", "fsGroup", "supplementalGroups")
_CONSTRAINTS = {
    "required": [*_FLAGS, *_LISTS],
    "properties": {
        **{key: {"type": "boolean"} for key in (*_FLAGS, "allowPrivilegeEscalation")},
        **dict.fromkeys((*_LISTS, "seccompProfiles", "users"), _TEXTS),
        **{key: {"properties": {"type": {"enum": ["RunAsAny", "MustRunAs"]}}} for key in _STRATEGIES},
    },
}
_OPERATIONS = ["In", "NotIn", "InRegexp", "Exists", "DoesNotExist", "Gt", "Lt", "GtLt", "IsTrue", "IsFalse"]
_EXPRESSION = {"required": ["op"], "properties": {"op": {"enum": _OPERATIONS}, "value": _TEXTS}}
_MATCHERS = {
    "items": {
        "required": ["feature"],
        "properties": {
            "feature": {"type": "string"},
            "matchExpressions": {"additionalProperties": _EXPRESSION},
        },
    }
}
_RULE = {
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "labels": {"additionalProperties": {"type": "string"}},
        "matchAny": {"items": {"properties": {"matchFeatures": _MATCHERS}}},
    },
}
_WRITTEN: Mapping[str, Mapping[str, Any]] = {
    "SecurityContextConstraints": _CONSTRAINTS,
    "NodeFeatureRule": {"properties": {"spec": {"properties": {"rules": {"items": _RULE}}}}},
}


def complaint(document: Mapping[str, Any], kubernetes: str) -> str | None:
    """Return the most relevant error of a document on a release of Kubernetes; None if it is valid."""
    found = best_match(Draft202012Validator(_schema(document, kubernetes)).iter_errors(document))
    return f"{document['kind']} {found.json_path}: {found.message}" if found else None


def _schema(document: Mapping[str, Any], kubernetes: str) -> dict[str, Any]:
    group, _, version = document["apiVersion"].rpartition("/")
    kind = document["kind"]
    if group == "monitoring.coreos.com":
        return _strict(operator_schema(f"{kind.lower()}s"))
    if kind in _WRITTEN:
        schema = _WRITTEN[kind]
        common = {"apiVersion": {}, "kind": {}, "metadata": {"required": ["name"]}}
        return _strict({**schema, "properties": common | schema["properties"]})
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
    """Return the schema with unknown fields refused in each object that lists its fields."""
    made = {name: _strict_within(each) for name, each in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    # The schema of a custom resource lists no fields of its metadata.
    if "properties" in schema and "additionalProperties" not in schema:
        made["additionalProperties"] = False
    return made


def _strict_within(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _strict(value)
    return [_strict_within(each) for each in value] if isinstance(value, list) else value
