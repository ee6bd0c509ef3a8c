"""The three protocols that published numbers follow, as data: front end, metrics, sample counts and settings.

Promises the settings of the standard evaluators: `adm` of OpenAI's (ImageNet), `edm` of EDM's (CIFAR, FFHQ,
    CelebA), `clean` of clean-fid.
Leaves to others: measuring, and saying what a run did differently. Numbers of different protocols may not be
    compared: another resize alone
moves Inception features by about 10 % of their maximum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

MetricName = Literal["fid", "sfid", "is", "precision", "recall", "f1", "kid"]
SIDE = 299  # pixels per side of Inception's input
FrontEndName = Literal["adm", "edm", "clean"]
Distances = Literal[
    "exact", "openai-float16"
]  # of precision and recall: float64, or rounded as OpenAI's evaluator rounds them

METRICS: tuple[MetricName, ...] = get_args(MetricName)  # in the order of tables
LOWER_IS_BETTER: tuple[MetricName, ...] = ("fid", "sfid", "kid")
OF_NEIGHBOURS: tuple[MetricName, ...] = ("precision", "recall", "f1")
HEADINGS: dict[str, str] = dict(
    zip(METRICS, ("FID", "sFID", "IS", "precision", "recall", "F1", "KID"), strict=True)
)


@dataclass(frozen=True)
class Protocol:
    """How one family of published numbers is measured."""

    name: str
    front_end: (
        FrontEndName | None
    )  # how images become 299 x 299 for the 2015-12-05 Inception network; None: another network than that
    metrics: tuple[MetricName, ...]  # its own, in table order
    samples: int | None = (
        50_000  # generated images, with random labels where there are classes; None: any number
    )
    manifold_images: int | None = None  # reference images for precision and recall; None: any number
    neighbours: int = 3  # k of precision and recall
    split_size: int = 5000  # contiguous samples in one split of the Inception score
    seed_ranges: tuple[
        tuple[int, int], ...
    ] = ()  # [first, stop) of each published range; the lowest FID is published, and named as such
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    kid_seed: int = 2020  # torch-fidelity's; clean-fid sets none, so that its KID differs from call to call


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "adm",
            front_end="adm",
            metrics=("fid", "sfid", "is", "precision", "recall", "f1"),
            manifold_images=10_000,
        ),
        Protocol(
            "edm",
            front_end="edm",
            metrics=("fid",),
            seed_ranges=((0, 50_000), (50_000, 100_000), (100_000, 150_000)),
        ),
        Protocol("clean", front_end="clean", metrics=("fid", "kid")),
    )
}
# Features of a classifier that was trained for the purpose: of no published protocol, so its numbers compare
# with their own kind alone.
CUSTOM = Protocol("custom", front_end=None, metrics=("fid", "is", "precision", "recall"), samples=None)


def chosen(protocol: Protocol, names: Sequence[str] | None = None) -> tuple[MetricName, ...]:
    """The metrics to measure, in table order and each once: `names`, or the protocol's own where None.

    Raises ValueError if there are none or one is unknown.
    """
    if names is None:
        return protocol.metrics
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise ValueError(
            f"expected one or more metrics of {', '.join(METRICS)}, found "
            f"{', '.join(map(repr, unknown)) or 'none'}"
        )
    return tuple(name for name in METRICS if name in names)


def outside_protocol(protocol: Protocol, names: Sequence[str]) -> list[str]:
    """A note for the result if some of these metrics are not the protocol's own; [] otherwise, and always for
    `CUSTOM`."""
    others = [HEADINGS[name] for name in chosen(protocol, names) if name not in protocol.metrics]
    if protocol is CUSTOM or not others:
        return []
    return [
        f"not part of protocol {protocol.name}, so do not compare with published numbers: {', '.join(others)}"
    ]
