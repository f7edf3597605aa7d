"""JSON schemas (those of openapi.yaml and asyncapi.yaml) as people read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tools.reference import markdown

Schema = Mapping[str, Any]


class Schemas:
    """The schemas of one document.

    Args:
        document: as it was parsed; references are followed in it.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    @property
    def names(self) -> list[str]:
        return sorted(self._document["components"]["schemas"])

    def followed(self, thing: Any) -> Any:
        """What a `$ref` leads to; all else as it is."""
        while isinstance(thing, Mapping) and "$ref" in thing:
            found: Any = self._document
            for part in thing["$ref"].removeprefix("#/").split("/"):
                found = found[part.replace("~1", "/").replace("~0", "~")]
            thing = found
        return thing

    def spoken(self, schema: Any) -> str:
        """A type in a few words: `array of [Run](#run)`."""
        if not isinstance(schema, Mapping) or not schema:
            return "any JSON"
        if "$ref" in schema:
            return self._link(schema["$ref"])
        for word, between in (("anyOf", " or "), ("oneOf", " or "), ("allOf", " and ")):
            if word in schema:
                return between.join(dict.fromkeys(self.spoken(one) for one in schema[word]))
        if "const" in schema:
            return markdown.code(_json(schema["const"]))
        if "enum" in schema:
            return " · ".join(markdown.code(_json(one)) for one in schema["enum"])
        return self._plain(schema)

    def _plain(self, schema: Schema) -> str:
        type_ = schema.get("type", "any JSON")
        words = " or ".join(type_) if isinstance(type_, list) else str(type_)
        if "items" in schema:
            words = words.replace("array", f"array of {self.spoken(schema['items'])}")
        if "properties" in schema:
            words = f"{words} with {', '.join(markdown.code(name) for name in schema['properties'])}"
        if isinstance(schema.get("additionalProperties"), Mapping):
            words = f"{words}: name → {self.spoken(schema['additionalProperties'])}"
        return ", ".join([words, *_bounds(schema)])

    def _link(self, reference: str) -> str:
        name = reference.rpartition("/")[2]
        return f"[{name}](#{_anchor(name)})"

    def headed(self, name: str) -> str:
        """A named schema in full, under the heading that links to it lead to."""
        described = self.described({"$ref": f"#/components/schemas/{name}"})
        return f"### {name} {{ #{_anchor(name)} }}\n\n{described}"

    def fields(self, schema: Any, above: str = "") -> list[list[str]]:
        """A row for each property of an object, and of those in it: name, type, whether it is required, what it is."""
        properties, required = dict[str, Any](), set[str]()
        for part in self._parts(schema):
            properties = {**part.get("properties", {}), **properties}
            required |= set(part.get("required", ()))
        rows = []
        for name, one in properties.items():
            path = f"{above}{name}"
            rows.append([markdown.code(path), self.spoken(one), "yes" if name in required else "", _described(one)])
            inside = one.get("items", one) if isinstance(one, Mapping) else {}
            if isinstance(inside, Mapping) and "properties" in inside:
                rows += self.fields(inside, f"{path}[]." if inside is not one else f"{path}.")
        return rows

    def _parts(self, schema: Any) -> Iterator[Schema]:
        """The schema, and those that it takes over."""
        schema = self.followed(schema)
        yield schema
        for part in schema.get("allOf", ()):
            yield from self._parts(part)

    def described(self, schema: Any) -> str:
        """A schema in full: its description, its type, its fields."""
        whole = self.followed(schema)
        said = f"{whole['description'].strip()}\n\n" if "description" in whole else ""
        fields = markdown.table(["field", "type", "required", ""], self.fields(whole))
        return said + (fields or f"{self.spoken(whole)}\n\n")


def _anchor(name: str) -> str:
    return f"object-{name.lower()}"


def _described(schema: Any) -> str:
    said = schema.get("description", "") if isinstance(schema, Mapping) else ""
    default = f"default: {markdown.code(_json(schema['default']))}" if "default" in schema else ""
    return "; ".join(one for one in (str(said).rstrip("."), default) if one)


def _bounds(schema: Schema) -> Iterator[str]:
    """What else is said of a plain type."""
    if "format" in schema:
        yield str(schema["format"])
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None or most is not None:
        yield f"{least} or more" if most is None else f"{least if least is not None else '…'} to {most}"
    if "maxLength" in schema:
        yield f"at most {schema['maxLength']} characters"
    if "maxItems" in schema:
        yield f"at most {schema['maxItems']}"


def _json(value: Any) -> str:
    return value if isinstance(value, str) else {True: "true", False: "false", None: "null"}.get(value, str(value))
