"""Write generated images as a data set: Parquet for Hugging Face's `datasets`, the records of their origin,
and a card.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dgflow._version import __version__
from dgflow.client.open_root import OpenRoot
from dgflow.files.outputs import OpenNew
from dgflow.images.write import Row, write_rows
from dgflow.publish.lineage import Base, bases, documents, licence_in_words, samples_in_words
from dgflow.publish.pieces import MADE_UP, card, python, write_json
from dgflow.report.layout import markdown_table
from dgflow.specs.step import SampleStep
from dgflow.store.address import Sealed
from dgflow.store.step_store import read_rows

MARKER = "generation.json"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


class SamplesFolder:
    """A sealed slice of generated images. Raises ValueError for other samples."""

    hub_type = "dataset"
    marker = MARKER

    def __init__(self, root: OpenRoot, sealed: Sealed) -> None:
        step = root.records.step(sealed.step_store.name)
        assert isinstance(step, SampleStep)
        self.sealed, self.step = sealed, step
        self.part = step[sealed.start : sealed.stop]
        names = sealed.step_store.read_shard(sealed.manifest.entries[0]).keys()
        if "image" not in names:
            decoded = "; publish the images that Decode makes from them" if "latent" in names else ""
            found = ", ".join(sorted(names - {"index", "label"}))
            raise ValueError(f"expected generated images, found {step.name} with {found}{decoded}")
        if self.part.drawn.seed is None:
            raise ValueError(
                f"expected generated images, found {step.name}, which no sampler drew: images of a data set "
                "are not published; write them with `dgflow export`"
            )
        known = ("label", "log_ratio") if step.labelled else ("log_ratio",)
        self.columns = [name for name in known if name in names]

    @property
    def title(self) -> str:
        return f"[{self.sealed.start}:{self.sealed.stop}] of {self.step.name}"

    @property
    def bases(self) -> list[Base]:
        """The published networks with which the samples were made."""
        return bases(self.step)

    @property
    def identity(self) -> dict[str, Any]:
        """The step, range and digest that identify these samples."""
        return {
            "step": self.step.name,
            "fingerprint": self.step.fingerprint,
            "start": self.sealed.start,
            "stop": self.sealed.stop,
            "samples_digest": self.sealed.digest,
        }

    def write(self, open_new: OpenNew, licence: str, name: str, *, made_up: bool = False) -> None:
        """Write the files, shard by shard. The arguments are those of `NetworkFolder.write`."""
        write_rows(self._rows(), open_new, self.columns, "data/")
        drawn = self.part.drawn
        generation = {
            **self.identity,
            "drawn": drawn._asdict(),
            "inputs": self.sealed.manifest.inputs,
            "made_with": [base._asdict() for base in self.bases],
            "steps": documents(self.step),
            "licence": licence,
            "dgflow": __version__,
        }
        write_json(open_new, MARKER, generation)
        with open_new("README.md") as file:
            file.write(self._card(licence, name, made_up).encode())

    def _rows(self) -> Iterator[Row]:
        sealed, columns = self.sealed, ["index", "image", *self.columns]
        for rows in read_rows(sealed.step_store, sealed.manifest, sealed.start, sealed.stop, columns):
            for number, index in enumerate(rows["index"]):
                known = {name: rows[name][number] for name in self.columns}
                label, ratio = known.get("label"), known.get("log_ratio")
                yield Row(
                    int(index),
                    rows["image"][number],
                    None if label is None else int(label),
                    None if ratio is None else float(np.float32(ratio)),
                )

    def _card(self, licence: str, name: str, made_up: bool) -> str:
        count, shape = self.sealed.stop - self.sealed.start, self.part.image_shape
        front = {
            "license": licence,
            "tags": ["dgflow", "synthetic", "diffusion"],
            "task_categories": ["unconditional-image-generation"],
            "size_categories": [next((text for most, text in _SIZES if count < most), "n>1M")],
            "configs": [
                {"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}
            ],
        }
        load = name.removeprefix("hf:")
        channels = f"{shape.channels} channel{'s' * (shape.channels > 1)}"
        of_column = {
            "label": f"int64, the class, one of {shape.num_classes:,}",
            "log_ratio": "float32, the logit of the discriminator at the last step that it guided",
        }
        rows = [
            ["image", f"{shape.image_size} x {shape.image_size}, {channels}, PNG"],
            ["index", f"int64, the sample's number, {self.sealed.start:,} to {self.sealed.stop - 1:,}"],
            *([column, of_column[column]] for column in self.columns),
        ]
        return card(
            front,
            [
                f"# {count:,} generated images, {shape.image_size} pixels",
                MADE_UP if made_up else "",
                f"Made by dgflow: {samples_in_words(self.part)}.",
                python(
                    f'from datasets import load_dataset\n\nsamples = load_dataset("{load}", split="train")'
                ),
                markdown_table(["column", ""], rows),
                "The noise and the label of a sample depend only on the seed and the sample's index. "
                "`generation.json` holds every step that led to the samples.",
                "## Licence",
                licence_in_words(licence, self.bases),
                "## Provenance",
                f"Written by dgflow {__version__} from the records of `{self.step.name}`, fingerprint "
                f"`{self.step.fingerprint}`, digest of the samples `{self.sealed.digest}`.",
            ],
        )
