"""The OpenAPI 3.1 document of an app: every interaction and every API call, with what they take, give and refuse.

Decides operations and their descriptions; leaves schemas to `json_schema` and whoever may call what to the app.
Invariant: what is described here is what `calls` accepts and gives, as both are made from the same payloads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from ensue.integrations.api import API
from ensue.integrations.inbound.webhook import Webhook
from ensue.schema.interaction import Interaction
from ensue.schema.model import Model
from ensue.schema.property import MISSING
from ensue.schema.written.names import described
from ensue.server.answers import encode
from ensue.server.docs.schemas import REF, Components, Json, nullable
from ensue.server.payload import Payload, PayloadMember

OPENAPI: Final = "3.1.0"
# With a dot, as no class of an app can have one in its name.
ERROR: Final = "ensue.Error"
CHANGE: Final = "ensue.Change"
_ID: Final[Json] = {"type": "integer", "format": "int64"}
_ERROR: Final[Json] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "fields", "request_id"],
            "properties": {
                "code": {"type": "string", "description": "A stable word for programs."},
                "message": {"type": "string", "description": "A sentence for people."},
                "fields": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                    "description": "What is wrong with each input.",
                },
                "request_id": {"type": "string", "description": "Names the request in the server's log."},
            },
        }
    },
}
_CHANGE: Final[Json] = {
    "type": "object",
    "required": ["type", "record", "id"],
    "properties": {
        "type": {"type": "string", "enum": ["create", "update", "delete"]},
        "record": {"type": "string", "description": "The record's type."},
        "id": _ID,
    },
}
_KEY_PARAMETER: Final[Json] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "A repeat with the same key gives the first event again and changes nothing.",
}


def describe(
    model: Model,
    payloads: Collection[Payload],
    apis: Mapping[str, Mapping[str, API]],
    webhooks: Collection[tuple[str, Webhook]] = (),
) -> Json:
    """The document, but for `servers`."""
    components = Components(model, _types(payloads, apis))
    components.schemas |= {ERROR: _ERROR, CHANGE: _CHANGE}
    paths: Json = {}
    for payload in payloads:
        paths[f"/api/interactions/{payload.interaction.name}"] = {"post": _interaction(payload, components)}
    for namespace, members in apis.items():
        for api in members.values():
            paths[f"/api/integrations/{namespace}/{api.name}"] = {"post": _api(namespace, api, components)}
    for namespace, webhook in webhooks:
        paths[f"/api/webhooks/{namespace}/{webhook.path}"] = {"post": _webhook(namespace, webhook)}
    return {
        "openapi": OPENAPI,
        "info": {"title": "ensue", "version": "1"},
        "paths": paths,
        "components": {"schemas": dict(sorted(components.schemas.items()))},
    }


def _types(payloads: Collection[Payload], apis: Mapping[str, Mapping[str, API]]) -> Iterator[Any]:
    for payload in payloads:
        yield from (member.type for member in payload.members if member.target is None)
    for members in apis.values():
        for api in members.values():
            yield from (parameter.type for parameter in api.parameters)
            yield api.result


def _interaction(payload: Payload, components: Components) -> Json:
    interaction = payload.interaction
    operation = _operation(f"interactions.{interaction.name}", "interactions", described(interaction.cls, Interaction))
    if interaction.reads is None:
        operation["parameters"] = [_KEY_PARAMETER]
    members = {item.name: _member(item, components) for item in payload.members}
    operation["requestBody"] = _body(members, [item.name for item in payload.members if item.required])
    operation["responses"] = _responses(_result(payload, members, components))
    return operation


def _result(payload: Payload, members: Json, components: Components) -> Json:
    reads = payload.interaction.reads
    if reads is not None:
        item = {"$ref": REF + reads} if reads in components.schemas else {"type": "object"}
        return _object({"records": {"type": "array", "items": item}}, ["records"])
    references = {item.name: item.optional for item in payload.members if item.target is not None}
    reference = _object({"id": _ID}, ["id"])
    event: Json = {"id": _ID, "at": {"type": "string", "format": "date-time"}, "user": nullable(reference)}
    for name, schema in members.items():
        event[name] = schema
        if name in references:
            event[name] = nullable(reference) if references[name] else reference
    return _object(
        {
            "event": _object(event, ["id"]),
            "changes": {"type": "array", "items": {"$ref": REF + CHANGE}},
            "replayed": {"type": "boolean"},
        },
        ["event", "changes", "replayed"],
    )


def _api(namespace: str, api: API, components: Components) -> Json:
    operation = _operation(f"{namespace}.{api.name}", namespace, api.description)
    members = {
        item.name: components.of(item.type) | ({} if item.required else _default(item.default))
        for item in api.parameters
    }
    operation["requestBody"] = _body(members, [item.name for item in api.parameters if item.required])
    operation["responses"] = _responses(components.of(api.result))
    return operation


def _webhook(namespace: str, webhook: Webhook) -> Json:
    operation = _operation(f"webhooks.{namespace}.{webhook.name}", "webhooks", webhook.description)
    text = f"Verified by {type(webhook.options.verify).__name__}; at most {webhook.options.max_bytes} bytes."
    operation["requestBody"] = {
        "required": True,
        "description": text,
        "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
    }
    taken = _object({"received": {"type": "boolean"}, "duplicate": {"type": "boolean"}}, ["received", "duplicate"])
    operation["responses"] = _responses(taken)
    return operation


def _operation(name: str, tag: str, description: str) -> Json:
    summary, _, rest = description.partition("\n")
    operation: Json = {"operationId": name, "tags": [tag]}
    if summary:
        operation["summary"] = summary
    if rest.strip():
        operation["description"] = rest.strip()
    return operation


def _member(member: PayloadMember, components: Components) -> Json:
    if member.target is not None:
        schema: Json = {**_ID, "description": f"The id of a {member.target}."}
    else:
        schema = components.of(member.type)
    if member.optional:
        schema = nullable(schema)
    return schema | _default(member.default)


def _default(value: Any) -> Json:
    if value is MISSING or callable(value):
        return {}
    try:
        encode(value)
    except TypeError:  # an expression such as `now`
        return {}
    return {"default": value}


def _body(members: Json, required: list[str]) -> Json:
    schema = {**_object(members, required), "additionalProperties": False}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _responses(result: Json) -> Json:
    def answer(description: str, schema: Json) -> Json:
        return {"description": description, "content": {"application/json": {"schema": schema}}}

    return {"200": answer("Done.", result), "default": answer("Not done.", {"$ref": REF + ERROR})}


def _object(properties: Json, required: list[str]) -> Json:
    schema: Json = {"type": "object", "properties": properties}
    return {**schema, "required": required} if required else schema
