"""The protocols of published numbers, as data: `adm` of OpenAI's evaluator (ImageNet), `edm` of EDM's
evaluator (CIFAR, FFHQ, CelebA), and `clean` of clean-fid.

Numbers of different protocols are not comparable: the resize alone changes Inception features by about 10 %
of their maximum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

MetricName = Literal["fid", "sfid", "is", "precision", "recall", "f1", "kid"]
SIDE = 299  # pixels per side of Inception's input
FrontEndName = Literal["adm", "edm", "clean"]
# Distances for precision and recall: float64, or rounded as in OpenAI's evaluator.
Distances = Literal["exact", "openai-float16"]

METRICS: tuple[MetricName, ...] = get_args(MetricName)  # in the order of tables
LOWER_IS_BETTER: tuple[MetricName, ...] = ("fid", "sfid", "kid")
OF_NEIGHBOURS: tuple[MetricName, ...] = ("precision", "recall", "f1")
HEADINGS: dict[str, str] = dict(
    zip(METRICS, ("FID", "sFID", "IS", "precision", "recall", "F1", "KID"), strict=True)
)
DECIMALS: dict[str, int] = dict(zip(METRICS, (2, 2, 2, 3, 3, 3, 5), strict=True))  # in a table of arms


@dataclass(frozen=True)
class Protocol:
    """The settings of one family of published numbers."""

    name: str
    front_end: FrontEndName | None  # front end of the 2015-12-05 Inception network; None: another network
    metrics: tuple[MetricName, ...]  # the protocol's own metrics, in table order
    samples: int | None = 50_000  # generated images, with random labels for classes; None: any number
    manifold_images: int | None = None  # reference images for precision and recall; None: any number
    neighbours: int = 3  # k of precision and recall
    split_size: int = 5000  # contiguous samples per split of the Inception score
    seed_ranges: tuple[tuple[int, int], ...] = ()  # seed ranges [first, stop); the lowest FID is published
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    kid_seed: int = 2020  # torch-fidelity's seed; clean-fid sets none, so its KID varies between calls


_ADM = Protocol("adm", "adm", ("fid", "sfid", "is", "precision", "recall", "f1"), manifold_images=10_000)
_EDM = Protocol("edm", "edm", ("fid",), seed_ranges=((0, 50_000), (50_000, 100_000), (100_000, 150_000)))
_CLEAN = Protocol("clean", "clean", ("fid", "kid"))
PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (_ADM, _EDM, _CLEAN)}
# Features of a classifier trained for the purpose. Such numbers are comparable only for the same classifier.
CUSTOM = Protocol("custom", None, ("fid", "is", "precision", "recall"), samples=None)


def chosen(protocol: Protocol, names: Sequence[str] | None = None) -> tuple[MetricName, ...]:
    """The metrics to measure, in table order, without duplicates: `names`, or the protocol's own if None.

    Raises ValueError if there are no names or a name is unknown.
    """
    if names is None:
        return protocol.metrics
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        found = ", ".join(map(repr, unknown)) or "none"
        raise ValueError(f"expected one or more metrics of {', '.join(METRICS)}, found {found}")
    return tuple(name for name in METRICS if name in names)


def outside_protocol(protocol: Protocol, names: Sequence[str]) -> list[str]:
    """A list with a note that names the metrics outside the protocol; empty if there are none, and for
    `CUSTOM`."""
    others = [HEADINGS[name] for name in chosen(protocol, names) if name not in protocol.metrics]
    if protocol is CUSTOM or not others:
        return []
    return [
        f"not part of protocol {protocol.name}, so do not compare with published numbers: {', '.join(others)}"
    ]
