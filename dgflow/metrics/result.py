"""The result of an evaluation as one JSON file: values, their errors and everything that determines them.

Results that were measured differently cannot be compared; the error names every field in which they differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dgflow.metrics.protocols import CUSTOM, METRICS, PROTOCOLS, Distances, FrontEndName
from dgflow.store.identity import canonical_json
from dgflow.store.receipts import Sha256

FORMAT = 1
NOISE = 2.0  # a change of fewer standard errors counts as noise
# Fields of `Provenance` in which comparable results may differ.
_OF_THE_SAMPLES = {"seed", "seeding", "start", "stop", "samples_digest", "dgflow_version"}

Number = Annotated[float, Field(allow_inf_nan=False)]
Error = Annotated[float, Field(allow_inf_nan=False, ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Provenance(_Frozen):
    """Everything that the numbers depend on.

    The reference consists of images, of published statistics, or of both. With both, the statistics are used
    for FID and sFID.
    """

    protocol: str  # name of the protocol, or of `CUSTOM`
    front_end: FrontEndName | None  # None: features of a network other than Inception
    n: Annotated[int, Field(ge=1)] | None  # number of samples; None: only statistics were given
    seed: int | None  # seed of the generation; None: unknown
    seeding: Literal["counter", "edm"] | None = None  # rule from seed and index to sample; None: unknown
    start: int | None  # first index under that seed, or number in file names, of [start, stop); None: unknown
    stop: int | None
    samples_digest: Sha256  # digest of the images, or of their statistics
    reference_digest: Sha256 | None  # digest of the reference images; None: statistics only
    reference_n: int | None  # number of reference images; None: statistics only
    statistics_digest: Sha256 | None  # digest of the published mu, sigma, ...; None: computed from the images
    network_digest: Sha256 | None  # digest of the feature network's weights; None: statistics on both sides
    k: int  # neighbours in precision and recall
    distances: Distances  # distances in precision and recall
    split_size: int  # samples per split of the Inception score
    kid_subsets: int
    kid_subset_size: int
    kid_seed: int
    dgflow_version: str

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.protocol not in (*PROTOCOLS, CUSTOM.name):
            names = f"{', '.join(PROTOCOLS)} or {CUSTOM.name}"
            raise ValueError(f"expected protocol {names}, found {self.protocol!r}")
        if self.protocol in PROTOCOLS and self.front_end != PROTOCOLS[self.protocol].front_end:
            raise ValueError(
                f"expected the front end of protocol {self.protocol}, found {self.front_end!r}; set the "
                f"protocol to {CUSTOM.name!r}"
            )
        known = self.n is not None and self.start is not None and self.stop == self.start + self.n
        if not known and (self.start, self.stop) != (None, None):
            raise ValueError(
                f"expected start and stop of {self.n or 'an unknown number of'} samples, or neither, found "
                f"{self.start} and {self.stop}"
            )
        has_images = self.reference_digest is not None
        if has_images != (self.reference_n is not None) or not (has_images or self.statistics_digest):
            raise ValueError(
                "expected a reference: images with their number and digest, statistics with their digest, "
                "or both"
            )
        return self

    @property
    def seed_range(self) -> tuple[int, int] | None:
        """Seeds [first, stop), `seed` + index, if every sample has its own seed, as in EDM; otherwise
        None."""
        if self.start is None or self.stop is None or self.seeding == "counter":
            return None
        first = self.seed or 0
        return first + self.start, first + self.stop


class MetricResult(_Frozen):
    """One evaluation.

    Attributes:
        errors: standard errors of the values due to the finite sample, with the reference taken as fixed;
            None or absent if unknown, as for recall and F1. FID and sFID: by the infinitesimal jackknife
            (Jaeckel 1972), without the bias at small n; IS: `split_error`; precision: `share_error`; KID:
            `subset_error`.
        spreads: population standard deviations that the standard evaluators print: `is` over splits, `kid`
            over subsets.
    """

    format: Literal[1] = FORMAT
    values: dict[str, Number] = Field(min_length=1)
    errors: dict[str, Error | None] = {}
    spreads: dict[str, Error] = {}
    provenance: Provenance
    warnings: list[str] = []  # reasons to doubt the numbers
    notes: list[str] = []  # other remarks, such as on metrics outside the protocol

    @model_validator(mode="after")
    def _named(self) -> Self:
        for field, numbers, allowed in (
            ("values", self.values, METRICS),
            ("errors", self.errors, tuple(self.values)),
            ("spreads", self.spreads, tuple(name for name in ("is", "kid") if name in self.values)),
        ):
            if unknown := sorted(numbers.keys() - set(allowed)):
                names = ", ".join(allowed) or "nothing"
                raise ValueError(f"expected {field} of {names}, found {', '.join(unknown)}")
        return self

    def encoded(self) -> bytes:
        """Canonical JSON, the content of a result file; `read_result` restores an equal result."""
        return canonical_json(self.model_dump()).encode()


def read_result(data: bytes | str, where: str) -> MetricResult:
    """Parse the content of a result file. Raises ValueError, which names the file as `where` and the
    fault.
    """
    try:
        document = json.loads(data)
    except ValueError as error:  # includes encoding errors
        raise ValueError(
            f"{where}: expected the JSON that `dgflow metrics` writes, found none: {error}"
        ) from error
    expected = f"{where}: expected a result of `dgflow metrics`"
    if not isinstance(document, dict):
        raise ValueError(f"{expected} with format, values and provenance, found a {type(document).__name__}")
    if not {"format", "values", "provenance"} <= document.keys():
        keys = ", ".join(sorted(document)[:5])
        raise ValueError(f"{expected} with format, values and provenance, found the keys {keys}")
    if document["format"] != FORMAT:
        provenance = document["provenance"]
        version = provenance.get("dgflow_version", "?") if isinstance(provenance, dict) else "?"
        raise ValueError(
            f"{where}: expected format {FORMAT}, found {document['format']!r}, written by dgflow {version}; "
            "measure again, or read it with that version"
        )
    try:
        return MetricResult.model_validate(document)
    except ValidationError as error:
        faults = (
            f"{'.'.join(map(str, fault['loc'])) or 'result'}: {fault['msg']}" for fault in error.errors()[:5]
        )
        raise ValueError(f"{expected}, found one that is not valid: {'; '.join(faults)}") from error


def check_comparable(a: MetricResult, b: MetricResult) -> None:
    """Raise ValueError, naming every difference, unless both results were measured in the same way.

    Only samples, seeds and version may differ.
    """
    ours, theirs = (result.provenance.model_dump(exclude=_OF_THE_SAMPLES) for result in (a, b))
    differences = [
        f"{name}: {_short(ours[name])} and {_short(theirs[name])}"
        for name in ours
        if ours[name] != theirs[name]
    ]
    if differences:
        raise ValueError(
            f"expected results that were measured alike, found differences in {'; '.join(differences)}. "
            "Measure one of them again with the settings of the other"
        )


def _short(value: object) -> str:
    """The value as text; a digest is shortened."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)


class Change(NamedTuple):
    """The change of one metric, its standard error in the metric's unit, and True if the change is at most
    `NOISE` standard errors.

    `error` and `within_noise` are None if an error is unknown.
    """

    change: float
    error: float | None
    within_noise: bool | None


def difference(result: MetricResult, against: MetricResult) -> dict[str, Change]:
    """The change `result` minus `against` of each metric that both have, in table order. The two sets of
    samples must be independent.

    Raises ValueError if the results may not be compared or share no metric.
    """
    check_comparable(result, against)
    shared = [name for name in METRICS if name in result.values and name in against.values]
    if not shared:
        names = f"{', '.join(result.values)} and {', '.join(against.values)}"
        raise ValueError(f"expected a metric that both have, found {names}")
    changes = {}
    for name in shared:
        change = result.values[name] - against.values[name]
        ours, theirs = result.errors.get(name), against.errors.get(name)
        error = None if ours is None or theirs is None else math.hypot(ours, theirs)
        changes[name] = Change(change, error, None if error is None else abs(change) <= NOISE * error)
    return changes


class LowestOfSeedRanges(_Frozen):
    """The lowest FID over the published seed ranges, as in papers. It is below the mean, so show it with its
    `label`."""

    label: str
    fid: float
    results: list[MetricResult]  # one result per range, in order of seeds


def lowest(results: Sequence[MetricResult]) -> LowestOfSeedRanges:
    """The lowest FID of results that cover each seed range of their protocol exactly once.

    Raises ValueError if the results do not cover the ranges, if the protocol has no seed ranges, or if the
    results may not be compared.
    """
    names = sorted({result.provenance.protocol for result in results})
    published = PROTOCOLS[names[0]].seed_ranges if len(names) == 1 and names[0] in PROTOCOLS else ()
    if not published:
        raise ValueError(
            f"expected results of a protocol with seed ranges (edm), found {', '.join(names) or 'no result'}"
        )
    for result in results:
        check_comparable(results[0], result)
        if "fid" not in result.values:
            raise ValueError(f"expected results with a FID, found one with {', '.join(result.values)}")
    by_range = {result.provenance.seed_range: result for result in results}
    if len(results) != len(published) or by_range.keys() != set(published):
        ranges = _ranges([result.provenance.seed_range for result in results])
        raise ValueError(
            f"expected one result for each of the published seed ranges {_ranges(published)}, found "
            f"{ranges}: the lowest of these is not the published figure"
        )
    return LowestOfSeedRanges(
        label=f"lowest of {len(published)} seed ranges, as published",
        fid=min(result.values["fid"] for result in results),
        results=[by_range[seeds] for seeds in published],
    )


def _ranges(ranges: Sequence[tuple[int, int] | None]) -> str:
    return ", ".join("unknown" if seeds is None else f"{seeds[0]}-{seeds[1] - 1}" for seeds in ranges)


def split_error(spread: float, splits: int) -> float | None:
    """Standard error of the mean of independent splits, from their population spread; None for one."""
    return spread / math.sqrt(splits - 1) if splits > 1 else None


def share_error(share: float, n: int) -> float:
    """Binomial standard error of a share of n independent samples, such as precision."""
    return math.sqrt(share * (1 - share) / n)


def subset_error(spread: float, subsets: int, subset_size: int, n: int) -> float | None:
    """Standard error of KID, from the population standard deviation over random subsets of m of n samples.

    None for one subset, or n < 2 m. Subsets overlap, so spread / sqrt(subsets) is only the error due to the
    choice of subsets. By Hoeffding's decomposition, the variance over subsets is the variance over n fresh
    samples times (n - m) / m. The two variances add. The reference's part of the spread is attributed to the
    samples, so the estimate is too large rather than too small.
    """
    if subsets < 2 or n < 2 * subset_size:
        return None
    return spread * math.sqrt(1 / (subsets - 1) + subset_size / (n - subset_size))
