"""The table that `dgflow metrics` prints: values with their errors, the conditions of the measurement, and
every warning. Only results that were measured in the same way are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dgflow.metrics.protocols import CUSTOM, HEADINGS, LOWER_IS_BETTER, METRICS, OF_NEIGHBOURS
from dgflow.metrics.result import NOISE, Change, MetricResult, Provenance, difference
from dgflow.report.layout import aligned, listed, ruled
from dgflow.runtime.terminal import wrapped

# Decimals of a value without an error, and the maximum for any value.
_DECIMALS: dict[str, int] = {"fid": 3, "sfid": 3, "is": 2, "precision": 4, "recall": 4, "f1": 4, "kid": 6}


def metrics_table(result: MetricResult, against: MetricResult | None = None) -> str:
    """Returns the table and its notes.

    With `against`, the table also has a row of that result, a row of changes from `against` to `result`, and
    a row that says whether each change exceeds the noise. Raises ValueError if the two results may not be
    compared.
    """
    changes = difference(result, against) if against else {}
    shown = [name for name in METRICS if name in result.values or (against and name in against.values)]
    rows = [
        ["", *(HEADINGS[name] for name in shown), "samples"],
        _row("this result" if against else "", result, shown),
    ]
    if against:
        rows.append(_row("against", against, shown))
        rows.append(["change", *(_changed(name, changes.get(name)) for name in shown), ""])
        rows.append(["more than noise?", *(_verdict(changes.get(name)) for name in shown), ""])
    lines = ruled(aligned(rows if against else [row[1:] for row in rows], left=(0,) if against else ()))
    notes = [*_notes(result, against, shown, changes), *result.notes]
    notes += [note for note in against.notes if note not in notes] if against else []
    theirs = against.warnings if against else []
    warnings = [
        f"warning: {'for both rows: ' if warning in theirs else ''}{warning}" for warning in result.warnings
    ]
    warnings += [
        f"warning: for the row 'against': {warning}" for warning in theirs if warning not in result.warnings
    ]
    texts = [*notes, *warnings]
    return "\n".join([*lines, "", *(line for text in texts for line in wrapped(text, hanging="  "))])


def _row(label: str, result: MetricResult, shown: Sequence[str]) -> list[str]:
    cells = [
        _with_error(name, result.values[name], result.errors.get(name)) if name in result.values else "-"
        for name in shown
    ]
    n = result.provenance.n
    return [label, *cells, "-" if n is None else f"{n:,}"]


def _with_error(name: str, value: float, error: float | None, sign: str = "") -> str:
    """Formats a value such as `3.943 ± 0.021`: the error has two significant digits, but no more decimals
    than `_DECIMALS` allows."""
    decimals = _DECIMALS[name]
    if error is None:
        return f"{value:{sign},.{decimals}f}"
    if error > 0:
        decimals = min(decimals, max(0, 1 - int(f"{error:.1e}".partition("e")[2])))
    return f"{value:{sign},.{decimals}f} ± {error:,.{decimals}f}"


def _changed(name: str, change: Change | None) -> str:
    return "-" if change is None else _with_error(name, change.change, change.error, sign="+")


def _verdict(change: Change | None) -> str:
    if change is None:
        return "-"
    return {None: "unknown", True: "no", False: "yes"}[change.within_noise]


def _notes(
    result: MetricResult, against: MetricResult | None, shown: Sequence[str], changes: dict[str, Change]
) -> list[str]:
    it = result.provenance
    down = [name for name in shown if name in LOWER_IS_BETTER]
    up = [name for name in shown if name not in down]
    better = "; ".join(
        f"{_headings(names)}: {word} is better" for names, word in ((down, "lower"), (up, "higher")) if names
    )
    samples = [f"samples: {_samples(it)}"]
    if against is not None:
        samples = [f"this result: {_samples(it)}", f"against: {_samples(against.provenance)}"]
    kind = f"protocol {it.protocol}"
    if it.protocol == CUSTOM.name:
        resize = f", resized as in protocol {it.front_end}" if it.front_end else ""
        kind = f"custom settings, not those of a published protocol{resize}"
    network = f"with digest {it.network_digest[:12]}" if it.network_digest else "unknown"
    return [
        f"{kind}; {better}",
        *samples,
        *_references(it, shown),
        f"features: network {network}",
        *_settings(it, shown, result.spreads if against is None else {}),
        *_meaning_of_errors([result, *([against] if against else [])]),
        *_meaning_of_change(changes),
    ]


def _samples(it: Provenance) -> str:
    if it.n is None:
        return f"statistics of an unknown number of images, digest {it.samples_digest[:12]}"
    seed = "seed unknown" if it.seed is None else f"seed {it.seed}"
    where = "" if it.start is None or it.stop is None else f", indices {it.start:,} to {it.stop - 1:,}"
    return f"{seed}{where}, digest {it.samples_digest[:12]}"


def _references(it: Provenance, shown: Sequence[str]) -> list[str]:
    images = f"{it.reference_n:,} images, digest {it.reference_digest[:12]}" if it.reference_digest else ""
    if it.statistics_digest is None:
        return [f"reference: {images}"]
    statistics = f"published statistics, digest {it.statistics_digest[:12]}"
    uses = {statistics: ("fid", "sfid"), images: ("precision", "recall", "f1", "kid")}
    names = {what: [name for name in shown if name in all_names] for what, all_names in uses.items()}
    return [f"reference for {_headings(each)}: {what}" for what, each in names.items() if each]


def _settings(it: Provenance, shown: Sequence[str], spreads: Mapping[str, float]) -> list[str]:
    lines = []
    if near := [name for name in shown if name in OF_NEIGHBOURS]:
        rounded = "distances rounded to float16 as in OpenAI's evaluator"
        distances = "exact distances" if it.distances == "exact" else rounded
        lines.append(f"{_headings(near)}: {it.k} nearest neighbours, {distances}")
    std = {name: f", with standard deviation {spread:.4g}" for name, spread in spreads.items()}
    if "is" in shown and it.n is not None:
        splits = math.ceil(it.n / it.split_size)
        mean = f"mean over {splits} splits of {it.split_size:,} samples{std.get('is', '')}"
        lines.append(f"IS: {'one split of all samples' if splits == 1 else mean}")
    if "kid" in shown:
        lines.append(
            f"KID: mean over {it.kid_subsets:,} subsets of {it.kid_subset_size:,}, drawn with seed "
            f"{it.kid_seed}{std.get('kid', '')}"
        )
    return lines


def _meaning_of_errors(results: Sequence[MetricResult]) -> list[str]:
    if all(error is None for result in results for error in result.errors.values()):
        return []
    return ["± is one standard error over draws of the samples; the reference is taken as fixed"]


def _meaning_of_change(changes: dict[str, Change]) -> list[str]:
    if not changes:
        return []
    unknown = [name for name, change in changes.items() if change.error is None]
    of_unknown = f"; unknown without a standard error ({_headings(unknown)})" if unknown else ""
    return [
        f"change: this result minus the row 'against'; more than noise: more than {NOISE:g} times the "
        f"change's standard error{of_unknown}"
    ]


def _headings(metrics: Sequence[str]) -> str:
    return listed([HEADINGS[name] for name in metrics])
