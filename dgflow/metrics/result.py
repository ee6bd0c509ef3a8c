"""What an evaluation found: values, their errors and everything that they depend on, as one JSON file; and
which results may be compared.

Promises that a file reads back as exactly what was written, and that unlike results are refused with every
field in which they differ. Leaves to others: measuring (`checks.py` has the warnings), and printing.
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
NOISE = 2.0  # a change of less than so many standard errors is within noise
# Fields of `Provenance` that tell one set of samples from another: all others must agree before two results
# are compared.
_OF_THE_SAMPLES = {"seed", "seeding", "start", "stop", "samples_digest", "dgflow_version"}

Number = Annotated[float, Field(allow_inf_nan=False)]
Error = Annotated[float, Field(allow_inf_nan=False, ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Provenance(_Frozen):
    """What the numbers depend on. The reference is images, published statistics, or both: statistics for FID
    and sFID, images else."""

    protocol: str  # its name, `CUSTOM`'s included
    front_end: FrontEndName | None  # None: features of another network than Inception
    n: Annotated[int, Field(ge=1)] | None  # samples; None: nothing but their statistics were given
    seed: int | None  # of the run that made them; None: not known
    seeding: Literal["counter", "edm"] | None = None  # how a seed and an index make a sample; None: not known
    start: (
        int | None
    )  # their indices [start, stop) under that seed, or the numbers in their names; None: not known
    stop: int | None
    samples_digest: Sha256  # of the images, or of their statistics
    reference_digest: Sha256 | None  # of the reference images; None: statistics alone
    reference_n: int | None  # reference images; None: statistics alone
    statistics_digest: Sha256 | None  # of mu, sigma, ... as published; None: computed from the images
    network_digest: (
        Sha256 | None
    )  # of the weights that give the features; None: statistics on both sides, so nobody knows
    k: int  # neighbours of precision and recall
    distances: Distances  # of precision and recall
    split_size: int  # samples in one split of the Inception score
    kid_subsets: int
    kid_subset_size: int
    kid_seed: int
    dgflow_version: str

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.protocol not in (*PROTOCOLS, CUSTOM.name):
            raise ValueError(
                f"expected protocol {', '.join(PROTOCOLS)} or {CUSTOM.name}, found {self.protocol!r}"
            )
        if self.protocol in PROTOCOLS and self.front_end != PROTOCOLS[self.protocol].front_end:
            raise ValueError(
                f"expected the front end of protocol {self.protocol}, found {self.front_end!r}; name it "
                f"{CUSTOM.name!r}"
            )
        if (self.start, self.stop) != (None, None) and (
            self.n is None or self.start is None or self.stop != self.start + self.n
        ):
            raise ValueError(
                f"expected start and stop of {self.n or 'an unknown number of'} samples, or neither, found "
                f"{self.start} and {self.stop}"
            )
        if (self.reference_digest is None) != (self.reference_n is None) or (
            self.reference_digest or self.statistics_digest
        ) is None:
            raise ValueError(
                "expected a reference: images with their number and digest, statistics with their digest, "
                "or both"
            )
        return self

    @property
    def seed_range(self) -> tuple[int, int] | None:
        """Seeds [first, stop) of samples that have one each, as EDM's: `seed` + index.

        None where they do not, or it is not known.
        """
        first = self.seed or 0
        return (
            None
            if self.start is None or self.stop is None or self.seeding == "counter"
            else (first + self.start, first + self.stop)
        )


class MetricResult(_Frozen):
    """One evaluation. All errors are standard errors of the value from drawing these samples; the reference
    is taken as fixed.

    errors, None or absent where not known:
        fid, sfid: by the infinitesimal jackknife (Jaeckel 1972); the bias of FID at small n is another matter
            and not in it.
        is: `split_error`. precision: `share_error`. kid: `subset_error`. recall, f1: not known.
    spreads: what the standard evaluators print beside the value, population standard deviations: `is` over
        splits, `kid` over subsets.
    """

    format: Literal[1] = FORMAT
    values: dict[str, Number] = Field(min_length=1)
    errors: dict[str, Error | None] = {}
    spreads: dict[str, Error] = {}
    provenance: Provenance
    warnings: list[str] = []  # what makes the numbers doubtful
    notes: list[str] = []  # what else a reader must know, such as metrics that are not part of the protocol

    @model_validator(mode="after")
    def _named(self) -> Self:
        for what, found, allowed in (
            ("values", self.values, METRICS),
            ("errors", self.errors, tuple(self.values)),
            ("spreads", self.spreads, tuple(name for name in ("is", "kid") if name in self.values)),
        ):
            if unknown := sorted(found.keys() - set(allowed)):
                raise ValueError(
                    f"expected {what} of {', '.join(allowed) or 'nothing'}, found {', '.join(unknown)}"
                )
        return self

    def encoded(self) -> bytes:
        """Canonical JSON, the content of a result file; `read_result` gives an equal result."""
        return canonical_json(self.model_dump()).encode()


def read_result(data: bytes | str, where: str) -> MetricResult:
    """The result in a file's content; `where` names the file in messages.

    Raises ValueError that says what is wrong with it.
    """
    try:
        document = json.loads(data)
    except ValueError as error:  # of the encoding, too
        raise ValueError(
            f"{where}: expected the JSON that `dgflow metrics` writes, found none: {error}"
        ) from error
    if not isinstance(document, dict) or not {"format", "values", "provenance"} <= document.keys():
        found = (
            f"the keys {', '.join(sorted(document)[:5])}"
            if isinstance(document, dict)
            else f"a {type(document).__name__}"
        )
        raise ValueError(
            f"{where}: expected a result of `dgflow metrics` with format, values and provenance, found "
            f"{found}"
        )
    if document["format"] != FORMAT:
        written = (
            document["provenance"].get("dgflow_version", "?")
            if isinstance(document["provenance"], dict)
            else "?"
        )
        raise ValueError(
            f"{where}: expected format {FORMAT}, found {document['format']!r}, written by dgflow {written}; "
            "measure again, or read it with that version"
        )
    try:
        return MetricResult.model_validate(document)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, part['loc'])) or 'result'}: {part['msg']}" for part in error.errors()[:5]
        )
        raise ValueError(
            f"{where}: expected a result of `dgflow metrics`, found one that is not valid: {wrong}"
        ) from error


def check_comparable(a: MetricResult, b: MetricResult) -> None:
    """Raises ValueError, naming every field that differs, unless both were measured alike: samples, seeds and
    version alone may differ."""
    of_a, of_b = (
        a.provenance.model_dump(exclude=_OF_THE_SAMPLES),
        b.provenance.model_dump(exclude=_OF_THE_SAMPLES),
    )
    if different := [
        f"{name}: {_short(of_a[name])} and {_short(of_b[name])}" for name in of_a if of_a[name] != of_b[name]
    ]:
        raise ValueError(
            f"expected results that were measured alike, found that they differ in {'; '.join(different)}. "
            "Measure one again as the other"
        )


def _short(value: object) -> str:
    return (
        value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
    )  # the beginning of a digest is enough


class Change(NamedTuple):
    """How one metric differs: `change` and its standard error, both in the metric's unit, and whether it is
    within `NOISE` errors."""

    change: float
    error: float | None
    within_noise: bool | None  # None: an error is not known


def difference(result: MetricResult, against: MetricResult) -> dict[str, Change]:
    """`result` minus `against` for each metric that both have, in table order; the two sets of samples are
    taken as independent.

    Raises ValueError if they may not be compared or share no metric.
    """
    check_comparable(result, against)
    shared = [name for name in METRICS if name in result.values and name in against.values]
    if not shared:
        raise ValueError(
            f"expected a metric that both have, found {', '.join(result.values)} and "
            f"{', '.join(against.values)}"
        )
    changes = {}
    for name in shared:
        change, errors = (
            result.values[name] - against.values[name],
            (result.errors.get(name), against.errors.get(name)),
        )
        error = None if errors[0] is None or errors[1] is None else math.hypot(errors[0], errors[1])
        changes[name] = Change(change, error, None if error is None else abs(change) <= NOISE * error)
    return changes


class LowestOfSeedRanges(_Frozen):
    """The lowest FID over the published seed ranges, which is what papers report: below the mean, so it never
    stands without `label`."""

    label: str
    fid: float
    results: list[MetricResult]  # one a range, in order of seeds


def lowest(results: Sequence[MetricResult]) -> LowestOfSeedRanges:
    """The lowest FID of results that cover the seed ranges of their protocol, each exactly once.

    Raises ValueError if they do not, if the protocol has no seed ranges, or if the results may not be
    compared.
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
    found = [result.provenance.seed_range for result in results]
    if len(results) != len(published) or by_range.keys() != set(published):
        raise ValueError(
            f"expected one result for each of the published seed ranges {_ranges(published)}, found "
            f"{_ranges(found)}: the lowest of these is not the published figure"
        )
    ordered = [by_range[seeds] for seeds in published]
    label = f"lowest of {len(published)} seed ranges, as published"
    return LowestOfSeedRanges(
        label=label, fid=min(result.values["fid"] for result in ordered), results=ordered
    )


def _ranges(ranges: Sequence[tuple[int, int] | None]) -> str:
    return ", ".join("unknown" if seeds is None else f"{seeds[0]}-{seeds[1] - 1}" for seeds in ranges)


def split_error(spread: float, splits: int) -> float | None:
    """Standard error of the mean over independent splits, from their population standard deviation; None for
    a single split."""
    return spread / math.sqrt(splits - 1) if splits > 1 else None


def share_error(share: float, n: int) -> float:
    """Binomial standard error of a share of n independent samples, such as precision: each lies inside the
    reals' manifold or does not."""
    return math.sqrt(share * (1 - share) / n)


def subset_error(spread: float, subsets: int, subset_size: int, n: int) -> float | None:
    """Standard error of KID, from the population standard deviation over random subsets of n samples; None
    for one subset, or n < 2 m.

    Subsets overlap, so spread / sqrt(subsets) is the error of choosing them and not of the samples. By
    Hoeffding's decomposition the variance over subsets of m of n samples is the variance over n fresh samples
    times (n - m) / m; the two add up. The reference's share of the spread counts as the samples', so this
    errs on the large side.
    """
    if subsets < 2 or n < 2 * subset_size:
        return None
    return spread * math.sqrt(1 / (subsets - 1) + subset_size / (n - subset_size))
