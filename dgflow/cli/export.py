"""Export samples, statistics of features and weights as files for other tools."""

import logging
from typing import Literal

import numpy as np

from dgflow.cli.export_weights import export_weights, weights_of
from dgflow.files.outputs import new_file
from dgflow.images.sources import is_step, open_images
from dgflow.images.write import export_images
from dgflow.steps.judging.statistics import NAMES, arrays_of
from dgflow.store.address import Sealed, find_slice
from dgflow.store.step_store import read_rows

_log = logging.getLogger(__name__)


def export(
    source: str,
    output: str,
    format: Literal["npz", "png", "parquet"],
    *,
    ignore_labels: bool = False,
    drop_alpha: bool = False,
    epoch: str = "last",
) -> str:
    """Export the data at `source` to `output`; returns a sentence about the written files.

    - For images (a source of `open_images`), writes them in `format`.
    - For a step of features, writes `mu` and `sigma`, and `mu_s` and `sigma_s` if it has features of sFID.
    - For a step with a network, writes its weights; for a training, the weights of `epoch`.

    Raises ValueError if `output` exists or the format does not fit.
    """
    if is_step(source) and (weights := weights_of(source)):
        return export_weights(*weights, output, epoch)
    if epoch != "last":
        raise ValueError(f"expected --epoch only with a training, found {source}; omit --epoch")
    if is_step(source) and (sealed := find_slice(source)).document["kind"] == "features":
        if format != "npz":
            raise ValueError(
                "expected --format npz for features, of which mean and covariance are written, found "
                f"{format}"
            )
        return _export_statistics(sealed, output)
    images = open_images(source, ignore_labels=ignore_labels, drop_alpha=drop_alpha, gaps=True)
    for note in images.notes:
        _log.warning("%s: %s", source, note)
    export_images(images, output, format)
    split = f" of the split {images.split}" if images.split else ""
    return f"{images.rows:,} images{split} written to {output}"


def _export_statistics(sealed: Sealed, output: str) -> str:
    from dgflow.metrics.frechet import MomentsAccumulator

    if not output.lower().endswith(".npz"):
        raise ValueError(
            f"expected a name that ends in .npz for statistics, found {output.rpartition('/')[2]!r}; "
            "correct the name"
        )
    columns = [name for name in NAMES if name in sealed.step_store.read_shard(sealed.manifest.entries[0])]
    accumulators = {name: MomentsAccumulator() for name in columns}
    with new_file(output) as file:  # opened first, to fail before reading features if the file exists
        for piece in read_rows(sealed.step_store, sealed.manifest, sealed.start, sealed.stop, columns):
            for name, accumulator in accumulators.items():
                accumulator.add(piece[name])
        arrays = arrays_of({name: accumulator.moments() for name, accumulator in accumulators.items()})
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return f"{', '.join(arrays)} of {sealed.stop - sealed.start:,} samples written to {output}"
