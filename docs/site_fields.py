"""An extension of griffe for the API pages: the fields of a spec as a table, with the comment beside each."""

import ast
import inspect
import pkgutil
from collections.abc import Iterator
from typing import NamedTuple

import griffe
from pydantic import BaseModel


class Field(NamedTuple):
    name: str
    kind: str
    default: str
    comment: str


class SpecFields(griffe.Extension):
    """Append a table of fields (type, default, comment) to the docstring of each frozen value."""

    def on_class(self, *, cls: griffe.Class, **_) -> None:
        spec = pkgutil.resolve_name(cls.canonical_path)
        if not (cls.docstring and issubclass(spec, BaseModel)):
            return
        own = {field.name: field for base in reversed(spec.__mro__) for field in declared(base)}
        rows = [own[name] for name in spec.model_fields if name in own]
        if rows:
            titles = ["field", "type", "default", "meaning"][: 4 if any(each.comment for each in rows) else 3]
            head = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
            body = [f"| {' | '.join(cells(each)[: len(titles)])} |" for each in rows]
            cls.docstring.value += "\n".join(["", "", *head, *body])


def declared(spec: type) -> Iterator[Field]:
    """The fields in the body of a class."""
    if not spec.__module__.startswith("dgflow"):
        return
    lines = inspect.getsource(spec).splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    [body] = ast.parse("\n".join(line[indent:] for line in lines)).body
    assert isinstance(body, ast.ClassDef)
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            _, _, comment = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")
            yield Field(node.target.id, kind(node.annotation), default(node.value), comment)


def kind(annotation: ast.expr) -> str:
    """The type without what Annotated adds to it."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        assert isinstance(annotation.slice, ast.Tuple)
        annotation = annotation.slice.elts[0]
    return ast.unparse(annotation).replace(" | ", " or ")


def default(value: ast.expr | None) -> str:
    """The default as it is written, also in a call of `Field`; empty where there is none."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Field":
        named = [each.value for each in value.keywords if each.arg == "default"]
        value = next(iter([*value.args, *named]), None)
    return "" if value is None or value == ... else ast.unparse(value)


def cells(field: Field) -> tuple[str, ...]:
    shown = f"`{field.default}`" if field.default else ""
    return f"`{field.name}`", f"`{field.kind}`", shown, field.comment.replace("|", "&#124;")
