"""The files of a smoke run: small checkpoints in the official formats with random weights, and statistics of
nothing.

Promises the same weights for the same description, numbers that are neither zero nor so large that anything
overflows, and that what is there already is left alone. They lie where a person puts files that no program
can download: `weights/NAME/FILE`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from dgflow.specs.spec import Spec
from dgflow.steps.pretrained import Pretrained
from dgflow.store.identity import sha256_hex
from dgflow.store.objects import ObjectStore
from dgflow.testing.smoke_images import Pictures

if TYPE_CHECKING:
    from torch import nn

_AT_ONCE = 16  # small files that are written at the same time
WIDTHS = {"": 2048, "_s": 2023}
"""Of Inception's features, and of those for sFID; the names of a reference's arrays end so."""


class Reference(Spec):
    """A published reference to be made: moments of nothing, and where `pictures` says so the images beside
    them."""

    key: str
    spatial: bool = False
    pictures: Pictures | None = None

    def file(self) -> bytes:
        """The `.npz`: `mu`, `sigma` of full rank, the same of sFID's features, and `arr_0`."""
        random = np.random.default_rng(0)
        arrays: dict[str, np.ndarray] = {}
        for suffix, width in WIDTHS.items() if self.spatial else [("", WIDTHS[""])]:
            factors = random.standard_normal((width, 8))
            arrays[f"mu{suffix}"] = np.abs(random.standard_normal(width))
            arrays[f"sigma{suffix}"] = np.diag(random.uniform(0.5, 1.5, width)) + 0.1 * factors @ factors.T
        if self.pictures is not None:
            arrays["arr_0"] = np.stack(list(self.pictures.pixels()))
        file = io.BytesIO()
        np.savez(file, **arrays)  # type: ignore[arg-type]
        return file.getvalue()


def write_pictures(store: ObjectStore, pictures: Iterable[Pictures]) -> None:
    """Every data set; one that was begun and not finished is written again."""
    for made in pictures:
        whole = f"{made.key.rpartition('/')[0]}.json"
        if store.size(whole) is None:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda file: store.put(*file), made.files()))
            store.create(whole, b"{}")


def write_file(store: ObjectStore, key: str, make: Callable[[], bytes]) -> None:
    if store.size(key) is None:
        store.put(
            key, make()
        )  # the same bytes whoever writes them, and more than S3 takes as an exclusive write


def checkpoint(steps: Iterable[Pretrained]) -> bytes:
    """The file of `steps`, in their format: one network, or several that share a file.

    Raises:
        ValueError: a format that is not written.
    """
    steps = tuple(steps)
    step, spec = steps[0], steps[0].network
    if step.format in spec.read_only:
        raise ValueError(
            f"expected a format that a smoke run can write, found {step.format!r} of {step.title}: name "
            "another file of it"
        )
    others = [(other.network, _filled(other)) for other in steps[1:]]
    return spec.write(step.format, _filled(step), step.shape, others)


def _filled(step: Pretrained) -> nn.Module:
    """The network with random weights, and in what begins as zero too: a published network gives something
    for everything."""
    import torch

    seed = int(sha256_hex(step.source.encode())[:8], 16)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = step.fresh()
        step.architecture.fill(network)
    return network.eval()
