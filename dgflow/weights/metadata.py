"""Writes the metadata of safetensors files, texts by name. Importing this module does not load torch."""

from __future__ import annotations

import json
from collections.abc import Mapping


def with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """Replace the metadata of a safetensors file. The tensors stay unchanged byte for byte."""
    size = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(metadata), **json.loads(data[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at multiples of 8
    return len(text).to_bytes(8, "little") + text + data[8 + size :]
