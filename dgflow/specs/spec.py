"""The base of every frozen value that a recipe names, and annotated types that its fields share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PLACEMENT = "placement"
"""Metadata of fields that are not identity, as in `epochs: Annotated[int, PLACEMENT] = 10`."""

BatchSize = Annotated[int, PLACEMENT, Field(gt=0)]
"""An upper bound: a shard is cut into equal batches that fit into memory."""

Precision = Literal["float32", "tf32", "bfloat16"]
ActivationPrecision = Literal["float32", "bfloat16"]
Seeding = Literal["counter", "edm"]
"""The rule by which a seed and an index give a sample's noise."""


class Spec(BaseModel):
    """A frozen value with named fields; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
