"""Results as an evaluation of the `adm` protocol writes them, for tests."""

from typing import Any

from dgflow.metrics.result import MetricResult

VALUES = {
    "fid": 3.943,
    "sfid": 6.14,
    "is": 215.84,
    "precision": 0.8265,
    "recall": 0.5309,
    "f1": 0.6465,
    "kid": 0.00041,
}
ERRORS = {
    "fid": 0.0213,
    "sfid": 0.0311,
    "is": 1.62,
    "precision": 0.00169,
    "recall": None,
    "f1": None,
    "kid": 1.2e-5,
}


def provenance(**changes: Any) -> dict[str, Any]:
    fields = {
        "protocol": "adm",
        "front_end": "adm",
        "n": 50_000,
        "seed": 0,
        "start": 0,
        "stop": 50_000,
        "samples_digest": "a" * 64,
        "reference_digest": "b" * 64,
        "reference_n": 10_000,
        "statistics_digest": "c" * 64,
        "network_digest": "d" * 64,
        "k": 3,
        "distances": "exact",
        "split_size": 5000,
        "kid_subsets": 100,
        "kid_subset_size": 1000,
        "kid_seed": 2020,
        "dgflow_version": "0.1.0",
    }
    return fields | changes


def result(
    values: dict[str, float] = VALUES, errors: dict[str, float | None] | None = None, **changes: Any
) -> MetricResult:
    """A result; `changes` are fields of the provenance, or `spreads`, `warnings` and `notes`."""
    own = {name: changes.pop(name) for name in ("spreads", "warnings", "notes") if name in changes}
    known = {name: ERRORS[name] for name in values} if errors is None else errors
    return MetricResult.model_validate(
        {"values": values, "errors": known, "provenance": provenance(**changes), **own}
    )
