"""Read the workers' notes of their attempts."""

from typing import Any

from dgflow.store.receipts import CorruptObject, parse_json
from dgflow.store.step_store import StepStore


def attempts(step_store: StepStore, folder: str) -> dict[int, dict[str, Any]]:
    """The latest attempt at each part of a folder, by number; none where one cannot be read."""
    keys = {number: entry.key for number, entry in step_store.noted(folder).items()}
    try:
        notes = step_store.store.get_many(list(keys.values()))
        return {
            number: parse_json(data, key, step_store.store.url)
            for (number, key), data in zip(keys.items(), notes, strict=True)
        }
    except (FileNotFoundError, CorruptObject):
        return {}
