"""The gateway's OpenAPI 3.1 document, made from the schemas that check messages."""

from importlib.metadata import version
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from viber_courier.ops.gateway.bodies import LINES
from viber_courier.ops.gateway.events import MAX_EVENTS, MAX_WAIT
from viber_courier.ops.gateway.messages import MAX_KEY, MAX_LIST
from viber_courier.ops.gateway.problems import TYPE
from viber_courier.schemas import fields
from viber_courier.schemas.status import Status

Json = dict[str, Any]

_PROBLEMS = {
    "400": "The body is not JSON, or a header is too long.",
    "401": "No token, or a wrong one.",
    "404": "No message of yours has this id.",
    "408": "The body did not come in time.",
    "409": "Another message has this id.",
    "413": "The body, a line or a list is too long.",
    "415": "The content type is another one.",
    "422": "Something breaks rules: `errors` has each fault by field path.",
    "429": "The queue is full: come again after `Retry-After`.",
    "503": "The store can't be used now: repeat with the same ids after `Retry-After`.",
}
_RETRIED = ("429", "503")


def document() -> Json:
    """Returns the document."""
    plugin = MarshmallowPlugin()
    spec = APISpec(
        title="viber-courier gateway",
        version=version("viber-courier"),
        openapi_version="3.1.0",
        plugins=[plugin],
        security=[{"token": []}, {}],
    )
    converter: Any = plugin.converter
    converter.add_attribute_function(lambda _, field, **__: dict(fields.FORMS.get(field.rule, {})))
    spec.components.security_scheme("token", {"type": "http", "scheme": "bearer"})
    for kind, schema in fields.CONTENT.items():
        spec.components.schema(f"{kind.title()}Content", schema=schema)
    spec.components.schema("Message", schema=fields.JOB)
    spec.components.schema("Problem", _PROBLEM)
    spec.components.schema("Record", _RECORD)
    for path, operations in _PATHS.items():
        spec.path(path, operations=operations)
    made: Json = spec.to_dict()
    message = made["components"]["schemas"]["Message"]
    message["properties"]["content"] = {
        "oneOf": [_ref(f"{kind.title()}Content") for kind in fields.CONTENT]
    }
    message["additionalProperties"] = False
    return made


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Json, text: str) -> Json:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _problems(*codes: str) -> Json:
    """Returns the answers of these codes, and of those that every call may have."""
    answers = dict[str, Json]()
    for code in sorted({*codes, "401", "503"}):
        answers[code] = {
            "description": _PROBLEMS[code],
            "content": {TYPE: {"schema": _ref("Problem")}},
        }
        if code in _RETRIED:
            answers[code]["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return answers


_TEXT = {"type": "string"}
_MAYBE = {"type": ["string", "null"]}
_COUNT = {"type": "integer", "minimum": 0}
_PROBLEM = {
    "description": "Problem details (RFC 9457).",
    "type": "object",
    "required": ["title", "status", "detail"],
    "properties": {
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "errors": {
            "type": "object",
            "additionalProperties": {"type": "array", "items": _TEXT},
        },
    },
}
_RECORD = {
    "description": "A message as it is known now, without its texts and phone number.",
    "type": "object",
    "required": ["id", "status", "final"],
    "properties": {
        "id": _TEXT,
        "status": {"enum": [*Status]},
        "final": {"type": "boolean"},
        **dict.fromkeys(("attempts", "unsure"), _COUNT),
        **dict.fromkeys(
            ("reason", "providerId", "providerStatus", "providerCode", "statusAt", "source"), _MAYBE
        ),
        "metadata": {"type": "object"},
    },
}
_ACCEPTED = {"type": "object", "required": ["id"], "properties": {"id": _TEXT}}
_ROWS = {
    "type": "object",
    "required": ["results"],
    "properties": {
        "results": {"type": "array", "items": {"anyOf": [_ACCEPTED, _ref("Problem")]}},
    },
}
_STREAMED = {
    "type": "object",
    "required": ["accepted", "refused"],
    "properties": {"accepted": _COUNT, "refused": {"type": "array", "items": _ref("Problem")}},
}
_LIST = {"type": "array", "items": _ref("Message"), "minItems": 1, "maxItems": MAX_LIST}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Messages without an id get one made of it: a repeat sends nothing twice.",
    "schema": {"type": "string", "maxLength": MAX_KEY},
}
_QUERY = {
    "group": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"},
    "wait": {"type": "integer", "minimum": 0, "maximum": MAX_WAIT, "default": 0},
    "max": {"type": "integer", "minimum": 1, "maximum": MAX_EVENTS, "default": 100},
    "start": {"enum": ["oldest", "new"], "default": "oldest"},
    "consumer": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$", "default": "gateway"},
}
_EVENTS = {
    "type": "object",
    "required": ["events"],
    "properties": {
        "events": {
            "description": "CloudEvents 1.0, each with its `ackid`.",
            "type": "array",
            "items": {"type": "object", "required": ["id", "type", "data", "ackid"]},
        },
        "missed": {
            "description": "Events of this time were deleted before the group read them.",
            "type": "object",
            "properties": dict.fromkeys(("from", "to"), {"type": "string", "format": "date-time"}),
        },
    },
}
_ACKS = {
    "type": "object",
    "required": ["group", "ackids"],
    "properties": {
        "group": _QUERY["group"],
        "ackids": {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_EVENTS},
    },
}
_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
_PATHS: dict[str, Json] = {
    "/v1/messages": {
        "post": {
            "operationId": "send",
            "summary": "Store a message, a list of them, or a stream of JSON lines.",
            "parameters": [_KEY],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"anyOf": [_ref("Message"), _LIST]}},
                    LINES[0]: {"schema": _TEXT},
                },
            },
            "responses": {
                "202": _json(
                    {"anyOf": [_ACCEPTED, _ROWS, _STREAMED]}, "Stored: each row's result."
                ),
                **_problems("400", "408", "409", "413", "415", "429"),
                "422": {
                    "description": _PROBLEMS["422"],
                    "content": {
                        TYPE: {"schema": _ref("Problem")},
                        "application/json": {"schema": {"anyOf": [_ROWS, _STREAMED]}},
                    },
                },
            },
        }
    },
    "/v1/messages/{id}": {
        "get": {
            "operationId": "get",
            "summary": "Show a message of your source.",
            "parameters": [_ID],
            "responses": {"200": _json(_ref("Record"), "The record."), **_problems("404")},
        }
    },
    "/v1/messages/{id}/cancel": {
        "post": {
            "operationId": "cancel",
            "summary": "Cancel a message that has not left yet.",
            "parameters": [_ID],
            "responses": {
                "200": _json(
                    {
                        "type": "object",
                        "required": ["cancelled"],
                        "properties": {"cancelled": {"type": "boolean"}},
                    },
                    "Whether it never left, and now never will.",
                ),
                **_problems("404"),
            },
        }
    },
    "/v1/events": {
        "get": {
            "operationId": "events",
            "summary": "Wait for result events of your source; or stream them (Accept).",
            "parameters": [
                {"name": name, "in": "query", "required": name == "group", "schema": schema}
                for name, schema in _QUERY.items()
            ],
            "responses": {
                "200": {
                    "description": "The next events; an unacknowledged one comes again.",
                    "content": {
                        "application/json": {"schema": _EVENTS},
                        "text/event-stream": {"schema": _TEXT},
                    },
                },
                **_problems("422"),
            },
        }
    },
    "/v1/events/ack": {
        "post": {
            "operationId": "ack",
            "summary": "Acknowledge events: the group does not get them again.",
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _ACKS}},
            },
            "responses": {
                "200": _json(
                    {
                        "type": "object",
                        "required": ["acknowledged"],
                        "properties": {"acknowledged": _COUNT},
                    },
                    "How many of them were unacknowledged.",
                ),
                **_problems("400", "408", "413", "415", "422"),
            },
        }
    },
}
