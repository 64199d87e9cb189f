"""The gateway's OpenAPI 3.1 document: openapi.json, and the schemas that check messages."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from viber_courier.schemas import fields

Json = dict[str, Any]


def document() -> Json:
    """Returns the document."""
    made: Json = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    made["info"]["version"] = version("viber-courier")
    made["components"]["schemas"] |= _messages()
    return made


def _messages() -> Json:
    """Returns what a message may be, by its schema's name."""
    plugin = MarshmallowPlugin()
    spec = APISpec(title="", version="", openapi_version="3.1.0", plugins=[plugin])
    converter: Any = plugin.converter
    converter.add_attribute_function(lambda _, field, **__: dict(fields.FORMS.get(field.rule, {})))
    for kind, schema in fields.CONTENT.items():
        spec.components.schema(f"{kind.title()}Content", schema=schema)
    spec.components.schema("Message", schema=fields.JOB)
    made: Json = spec.to_dict()["components"]["schemas"]
    contents = [f"#/components/schemas/{kind.title()}Content" for kind in fields.CONTENT]
    made["Message"]["properties"]["content"] = {"oneOf": [{"$ref": name} for name in contents]}
    made["Message"]["additionalProperties"] = False
    return made
