"""The reference page, made of the OpenAPI document: `python -m services.coordinator.api.reference`.

`reference.md` beside this file is the page's frame; what is made here goes into its `{{...}}`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from services.coordinator.api.app import make_app, make_service
from services.coordinator.api.problems import EVERYWHERE, MEDIA_TYPE
from services.coordinator.api.reference_words import (
    EXAMPLES,
    FIELDS,
    HTTP_MEANINGS,
    MEANINGS,
    ROLES,
)
from shared.rest import JobEvent
from shared.settings import Settings, SourceLimits

Schema: TypeAlias = dict[str, Any]

HEADINGS = {
    "jobs": "Jobs",
    "results": "Results",
    "uploads": "Uploads",
    "system": "System and sessions",
}
ONLY_SENT = ("Body_", "JobOptions", "UploadRequest", "UploadedPart")
"""Models that are told where they are sent, and nowhere else."""

PLAIN_PATTERNS = 60
"""Characters of a pattern that a table can hold; longer ones are explained in words."""


def main() -> None:
    """Print the page."""
    sys.stdout.write(render(document()))


def document() -> Schema:
    """The OpenAPI document of a service with default settings; nothing is connected to."""
    with TemporaryDirectory() as folder:
        # Discarded at once: a port that nobody listens on will do, as nothing is asked.
        settings = Settings(redis_url="redis://127.0.0.1:1/0", state_dir=Path(folder))
        service = replace(make_service(settings), limits=SourceLimits())
        made: Schema = make_app(service).openapi()
    event = JobEvent.model_json_schema(ref_template="#/components/schemas/{model}")
    event.pop("$defs", None)
    made["components"]["schemas"]["JobEvent"] = event
    return made


def render(openapi: Schema) -> str:
    """The whole page as Markdown; the same document gives the same page."""
    page = resources.files("services.coordinator.api").joinpath("reference.md").read_text()
    parts = {
        "overview": "\n".join(_overview(openapi)),
        "routes": "\n".join(_routes(openapi)),
        "problems": "\n".join(_problems()),
        "models": "\n".join(_models(openapi)),
    }
    for name, text in parts.items():
        page = page.replace("{{" + name + "}}", text.strip())
    return page


def operations(openapi: Schema) -> Iterator[tuple[str, Schema]]:
    """Routes as "GET /v1/jobs", in the order of the page; HEAD goes with its GET."""
    for tag in HEADINGS:
        for path, methods in openapi["paths"].items():
            for method, operation in methods.items():
                if tag in operation["tags"] and not (method == "head" and "get" in methods):
                    yield f"{method.upper()} {path}", operation


def anchor(heading: str) -> str:
    """What a heading is called in links, by GitHub's rules."""
    plain = heading.replace("`", "").lower()
    return "".join(c for c in plain if c.isalnum() or c in " -_").replace(" ", "-")


def _overview(openapi: Schema) -> Iterator[str]:
    rows = [
        (f"[`{route}`](#{anchor(route)})", _role(route), _paragraph(operation)[0])
        for route, operation in operations(openapi)
    ]
    yield from _table(("route", "role", "what it does"), rows)


def _routes(openapi: Schema) -> Iterator[str]:
    told = None
    for route, operation in operations(openapi):
        tag = operation["tags"][0]
        if tag != told:
            yield from (f"## {HEADINGS[tag]}", "")
            told = tag
        yield from (f"### `{route}`", "")
        yield from ("\n".join(_paragraph(operation)), "")
        method, _, path = route.partition(" ")
        headed = method == "GET" and "head" in openapi["paths"][path]
        more = " `HEAD` answers the same without the body." if headed else ""
        yield from (f"Role: {_role(route)}.{more}", "")
        yield from _parameters(openapi, operation)
        yield from _body(openapi, operation)
        yield from _answers(operation)
        yield from ("```sh", EXAMPLES[route].strip(), "```", "")


def _role(route: str) -> str:
    if route not in ROLES:
        return "none, no key needed"
    role = ROLES[route]
    return "any key" if role is None else f"`{role.value}`"


def _paragraph(operation: Schema) -> list[str]:
    return str(operation["description"]).strip().splitlines()


def _parameters(openapi: Schema, operation: Schema) -> Iterator[str]:
    rows = []
    for each in operation.get("parameters", ()):
        schema = {**each["schema"], "description": each.get("description", "")}
        _, kind, default, limits, what = _field(openapi, "", each["name"], schema, each["required"])
        rows.append((f"`{each['name']}`", each["in"], kind, default, limits, what))
    if rows:
        yield from _table(("parameter", "in", "type", "default", "limits", "what"), rows)


def _body(openapi: Schema, operation: Schema) -> Iterator[str]:
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        if "allOf" in schema:
            schema = schema["allOf"][0]
        model = _name(schema)
        yield from (f"Body, `{media_type}`:", "")
        if schema.get("format") == "binary":
            yield from ("the bytes of the video.", "")
        elif model is None:
            yield from _form(schema)
        else:
            yield from _fields(openapi, model)
            for nested in _nested(openapi, model):
                yield from (f"Each of `{nested}`:", "")
                yield from _fields(openapi, nested)


def _form(schema: Schema) -> Iterator[str]:
    rows = [
        ("`file`", "bytes", "required", "the video"),
        ("`spec`", "JSON", "`{}`", "the fields above but `source`"),
    ]
    if set(schema["properties"]) != {"file", "spec"}:
        raise ValueError("the form of an upload has other parts than the page explains")
    yield from _table(("part", "type", "default", "what"), rows)


def _nested(openapi: Schema, model: str) -> list[str]:
    """Models of lists in a body."""
    properties = openapi["components"]["schemas"][model]["properties"].values()
    found = [_name(each.get("items", {})) for each in properties]
    return [each for each in found if each is not None]


def _answers(operation: Schema) -> Iterator[str]:
    rows, refused = [], []
    statuses = sorted(operation["responses"])
    usual = {str(status) for status in EVERYWHERE}
    every = usual <= set(statuses)
    for status in statuses:
        answer = operation["responses"][status]
        contents = answer.get("content", {})
        if MEDIA_TYPE in contents:
            refused += [] if every and status in usual else [f"{status} ({answer['description']})"]
            continue
        what = answer["description"].replace("Successful Response", "")
        rows.append((status, _contents(contents), what))
    yield from _table(("answer", "body", "what"), rows)
    common = "[what any route may](#problems)" if every else ""
    told = ", ".join([*refused, *([common] if common else [])])
    if told:
        yield from (f"[Problems](#problem): {told}.", "")


def _contents(contents: Schema) -> str:
    found = []
    for media_type, content in contents.items():
        model = _name(content.get("schema", {}))
        found.append(f"`{media_type}`" if model is None else f"[{model}](#{anchor(model)})")
    return ", ".join(found)


def _problems() -> Iterator[str]:
    known = {code.value: meaning for code, meaning in MEANINGS.items()} | HTTP_MEANINGS
    rows = []
    for code, meaning in known.items():
        status = "" if meaning.status is None else str(meaning.status)
        ends = "yes" if meaning.ends else ""
        rows.append((f"`{code}`", status, ends, meaning.what, meaning.do))
    yield from _table(("code", "answer", "ends jobs", "what it means", "what to do"), rows)


def _models(openapi: Schema) -> Iterator[str]:
    for name, schema in openapi["components"]["schemas"].items():
        if "properties" not in schema or name.startswith(ONLY_SENT):
            continue
        yield from (f"### {name}", "", schema.get("description", "").strip(), "")
        yield from _facts(openapi, name)


def _fields(openapi: Schema, model: str) -> Iterator[str]:
    """Of a body that is sent."""
    schema = openapi["components"]["schemas"][model]
    required = schema.get("required", ())
    rows = [
        _field(openapi, model, name, each, name in required)
        for name, each in schema["properties"].items()
    ]
    yield from _table(("field", "type", "default", "limits", "what"), rows)


def _facts(openapi: Schema, model: str) -> Iterator[str]:
    """Of a body that is answered: it has all of them."""
    rows = []
    for name, schema in openapi["components"]["schemas"][model]["properties"].items():
        field, kind, _, _, what = _field(openapi, model, name, schema, required=True)
        rows.append((field, kind, what))
    yield from _table(("field", "type", "what"), rows)


def _field(
    openapi: Schema, model: str, name: str, schema: Schema, required: bool
) -> tuple[str, str, str, str, str]:
    what = FIELDS.get(f"{model}.{name}") or str(schema.get("description", ""))
    default = "required" if required else f"`{json.dumps(schema.get('default'))}`"
    limits = ", ".join(_limits(schema))
    return f"`{name}`", _kind(openapi, schema), default, limits, what


def _kind(openapi: Schema, schema: Schema) -> str:
    model = _name(schema)
    if model is not None:
        target = openapi["components"]["schemas"][model]
        if "enum" in target:
            return _one_of(target["enum"])
        return f"`{model}`" if model.startswith(ONLY_SENT) else f"[{model}](#{anchor(model)})"
    if "anyOf" in schema:
        return " or ".join(_kind(openapi, each) for each in schema["anyOf"])
    if "enum" in schema:
        return _one_of(schema["enum"])
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return "[" + ", ".join(_kind(openapi, each) for each in schema["prefixItems"]) + "]"
        return f"list of {_kind(openapi, schema['items'])}"
    values = schema.get("additionalProperties")
    if schema.get("type") == "object" and isinstance(values, dict):
        return f"object of {_kind(openapi, values)}"
    return {"date-time": "time"}.get(schema.get("format", ""), str(schema.get("type", "any")))


def _one_of(values: Iterable[object]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _limits(schema: Schema) -> Iterator[str]:
    for each in (schema, *schema.get("anyOf", ())):
        least, most = each.get("minimum"), each.get("maximum")
        if least is not None or most is not None:
            yield _span(least, most, "")
        if "exclusiveMinimum" in each:
            yield f"more than {each['exclusiveMinimum']:g}"
        if "minLength" in each or "maxLength" in each:
            yield _span(each.get("minLength"), each.get("maxLength"), " characters")
        if "pattern" in each and len(each["pattern"]) < PLAIN_PATTERNS:
            yield f"`{each['pattern']}`"
        if "prefixItems" not in each and ("minItems" in each or "maxItems" in each):
            yield _span(each.get("minItems"), each.get("maxItems"), " of them")


def _span(least: float | None, most: float | None, unit: str) -> str:
    if most is None:
        return f"at least {least:.0f}{unit}"
    if least is None:
        return f"at most {most:.0f}{unit}"
    return f"{least:.0f} to {most:.0f}{unit}"


def _name(schema: Schema) -> str | None:
    """Of a model that is referred to."""
    found: str = schema.get("$ref", "").rpartition("/")[2]
    return found or None


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns that are empty in every row are left out; no rows, no table."""
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    if not kept:
        return
    yield _row(head[i] for i in kept)
    yield "|" + "---|" * len(kept)
    for row in rows:
        yield _row(row[i] for i in kept)
    yield ""


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


if __name__ == "__main__":
    main()
