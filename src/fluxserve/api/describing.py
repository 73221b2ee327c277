"""What the API's pages say beyond what FastAPI sees: handlers read their requests themselves, so that no bad one can be
a 500.
"""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from fluxserve.api.reading import LONGEST_DEADLINE_SECONDS, LONGEST_IDEMPOTENCY_KEY

KEY_SCHEMA = {
    "type": "string",
    "minLength": 1,
    "maxLength": LONGEST_IDEMPOTENCY_KEY,
    "pattern": "^[!-~]+$",
    "description": "a name for this request: sent again with it within 24 hours, it makes nothing for a second time",
}
SCHEMES = {
    "X-API-Key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
}


class Refusal(BaseModel):
    """What is answered in place of what was asked for, where no vendor has decided its form."""

    error: str = Field(description="what was wrong, and what is allowed")


class Keyed(FastAPI):
    """An application all of whose routes want a key, sent either way."""

    def openapi(self) -> dict[str, Any]:
        schema = super().openapi()
        schema.setdefault("components", {})["securitySchemes"] = SCHEMES
        schema["security"] = [{name: []} for name in SCHEMES]
        return schema


def refusals(body: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """What any route may answer in place of what was asked for."""
    return {
        "4XX": {"model": body, "description": "It was refused; the message says why"},
        "5XX": {"model": body, "description": "A fault of ours, or not just now"},
    }


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    return body(model.model_json_schema())


def body(schema: dict[str, Any], form: dict[str, Any] | None = None) -> dict[str, Any]:
    """`form` is the schema of the same body as a multipart form, where one is taken."""
    content = {"application/json": {"schema": schema}}
    if form is not None:
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


def query_of(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    return {"parameters": [_parameter("query", name, field) for name, field in schema["properties"].items()]}


def headers(**schemas: dict[str, Any]) -> dict[str, Any]:
    """None of them need be there. Their names are written with underscores."""
    return {"parameters": [_parameter("header", name.replace("_", "-"), schema) for name, schema in schemas.items()]}


def _parameter(place: str, name: str, field: dict[str, Any]) -> dict[str, Any]:
    schema = {key: value for key, value in field.items() if key not in ("title", "description", "default", "anyOf")}
    for variant in field.get("anyOf", ()):  # a query has no null
        if variant.get("type") != "null":
            schema |= variant
    return {"in": place, "name": name, "required": False, "description": field["description"], "schema": schema}


CREATE_HEADERS = headers(
    Idempotency_Key=KEY_SCHEMA,
    X_Deadline_Seconds={
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": LONGEST_DEADLINE_SECONDS,
        "description": "so long after it was created a task that has not ended fails, and costs nothing",
    },
)
