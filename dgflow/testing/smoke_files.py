"""Write the files of a smoke run: small checkpoints in the official formats with random weights, and random
statistics.

The same description gives the same weights, which cause no overflow. Existing files are kept. A file of the
catalogue has the key of a manual download, `weights/NAME/FILE`.
"""

from __future__ import annotations

import io
import pickle
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

_AT_ONCE = 16  # small files written concurrently
WIDTHS = {"": 2048, "_s": 2023}
"""Number of features by suffix of a reference's array names: Inception's features, and those of sFID."""


class Reference(Spec):
    """A published reference to write, with random moments, and with images if there are `pictures`."""

    key: str
    spatial: bool = False
    pictures: Pictures | None = None

    def file(self) -> bytes:
        """Encode the reference as `.npz`, or as EDM2's pickle: `mu`, `sigma` (full rank), those of sFID's
        features if `spatial`, and the images as `arr_0`.
        """
        random = np.random.default_rng(0)
        arrays: dict[str, np.ndarray] = {}
        for suffix, width in WIDTHS.items() if self.spatial else [("", WIDTHS[""])]:
            factors = random.standard_normal((width, 8))
            arrays[f"mu{suffix}"] = np.abs(random.standard_normal(width))
            arrays[f"sigma{suffix}"] = np.diag(random.uniform(0.5, 1.5, width)) + 0.1 * factors @ factors.T
        if self.pictures is not None:
            arrays["arr_0"] = np.stack(list(self.pictures.pixels()))
        if self.key.endswith(".pkl"):
            return pickle.dumps({"fid": arrays}, protocol=4)
        file = io.BytesIO()
        np.savez(file, **arrays)  # type: ignore[arg-type]
        return file.getvalue()


def write_pictures(store: ObjectStore, pictures: Iterable[Pictures]) -> None:
    """Write every data set; rewrite incomplete ones."""
    for each in pictures:
        complete = f"{each.key.rpartition('/')[0]}.json"
        if store.size(complete) is None:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda file: store.put(*file), each.files()))
            store.create(complete, b"{}")


def write_file(store: ObjectStore, key: str, make: Callable[[], bytes]) -> None:
    if store.size(key) is None:
        store.put(key, make())  # too large for S3's conditional write; all writers write the same bytes


def checkpoint(steps: Iterable[Pretrained]) -> bytes:
    """Encode the checkpoint of `steps` in their format: of one network, or of several that share a file.

    Raises:
        ValueError: there is no writer for the format.
    """
    steps = tuple(steps)
    step, spec = steps[0], steps[0].network
    if step.format in spec.read_only:
        raise ValueError(
            f"expected a format that a smoke run can write, found {step.format!r} of {step.title}: use a "
            "file of that network in another format"
        )
    others = [(other.network, _filled(other)) for other in steps[1:]]
    return spec.write(step.format, _filled(step), step.shape, others)


def _filled(step: Pretrained) -> nn.Module:
    """Build the network with random weights. Layers that are initialised with zeros are filled too, because
    trained networks have none.
    """
    import torch

    seed = int(sha256_hex(step.source.encode())[:8], 16)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = step.fresh()
        step.architecture.fill(network)
    return network.eval()
