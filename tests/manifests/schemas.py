"""Strict schema validation of Kubernetes objects, as `kubectl apply --validate=strict` has it.

Core kinds: the schemas of Kubernetes 1.37 in PyPI's kubernetes-validate. TFJob and JobSet: the
projects' own custom resource definitions. Unknown fields are errors everywhere.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

DEFINITIONS = Path(__file__).resolve().parents[1] / "data_files" / "crds"
QUANTITY = r"^[+-]?(\d+|\d+\.\d*|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?$"


def closed(schema: Any) -> Any:
    """An openAPIV3Schema as JSON schema that knows no other fields than the named ones."""
    if not isinstance(schema, dict):
        return schema
    out = {k: v for k, v in schema.items() if k != "description"}
    if out.pop("x-kubernetes-int-or-string", False):
        out.pop("type", None)
        out["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        if "pattern" in out:
            out["pattern"] = QUANTITY
    for key in ("properties", "patternProperties"):
        if key in out:
            out[key] = {name: closed(part) for name, part in out[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(out.get(key), dict):
            out[key] = closed(out[key])
    open_ended = out.get("x-kubernetes-preserve-unknown-fields")
    if out.get("type") == "object" and not open_ended:
        out.setdefault("additionalProperties", False)
    if out.pop("nullable", False) and "type" in out:
        out["type"] = [out["type"], "null"]
    return out


def definition(file: Path) -> dict[str, Any]:
    """A file of DEFINITIONS as the CustomResourceDefinition that an API server takes.

    Without what does not decide whether an object is accepted: columns of tables, short names.
    """
    found = json.loads(file.read_text())
    last = list(found["versions"])[-1]
    versions = [
        {"name": v, "served": True, "storage": v == last, "schema": {"openAPIV3Schema": schema}}
        for v, schema in found["versions"].items()
    ]
    plural = file.stem.rpartition("_")[2]
    names = {"kind": found["kind"], "plural": plural, "singular": found["kind"].lower()}
    spec = {"group": found["group"], "names": names, "scope": "Namespaced", "versions": versions}
    head = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
    return head | {"metadata": {"name": f"{plural}.{found['group']}"}, "spec": spec}


@functools.cache
def custom() -> dict[tuple[str, str], Any]:
    """(apiVersion, kind) -> validator, of the custom resources."""
    import jsonschema

    found = {}
    for file in DEFINITIONS.glob("*.json"):
        definition = json.loads(file.read_text())
        for version, schema in definition["versions"].items():
            strict = closed(schema)
            # ObjectMeta is not in a definition: `core` checks it.
            strict["properties"]["metadata"] = {"type": "object"}
            required = {"apiVersion", "kind", "metadata", *strict.get("required", [])}
            strict["required"] = sorted(required)
            key = f"{definition['group']}/{version}", definition["kind"]
            found[key] = jsonschema.Draft7Validator(strict)
    return found


def core(document: dict[str, Any]) -> list[str]:
    """What is wrong with an object of Kubernetes' own."""
    return list(_core(json.dumps(document)))


# Most overlays have the same ConfigMaps, accounts and claims.
@functools.cache
def _core(text: str) -> tuple[str, ...]:
    import kubernetes_validate

    document = json.loads(text)

    version = kubernetes_validate.latest_version()
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return (f"no schema for {document.get('apiVersion')} {document.get('kind')}",)
    except kubernetes_validate.ValidationError as error:
        return (f"{'.'.join(map(str, error.path))}: {error.message[:200]}",)
    return ()


def faults(document: dict[str, Any]) -> list[str]:
    """What the schemas refuse in one object; [] for a good one."""
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        return ["metadata.name: is required, a string"]
    validator = custom().get((document.get("apiVersion", ""), document.get("kind", "")))
    if validator is None:
        return core(document)
    found = []
    for error in validator.iter_errors(document):
        found.append(f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}")
    metadata_only = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    return found + core(metadata_only)
