"""The base of every frozen value that a recipe names."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

PLACEMENT = (
    "placement"  # metadata of fields that are not identity, as in `epochs: Annotated[int, PLACEMENT] = 10`
)


class Spec(BaseModel):
    """A frozen value with named fields; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
