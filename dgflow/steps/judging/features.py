"""Features: what a judge network makes of images, computed once and shared by every comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from pydantic import model_validator

from dgflow.metrics.checks import constant_indices, pixel_digests
from dgflow.metrics.protocols import FrontEndName
from dgflow.networks.inception.spec import InceptionV3
from dgflow.networks.own.spec import OwnFeatures
from dgflow.networks.roles import FeatureNetworkSpec
from dgflow.specs.spec import BatchSize
from dgflow.specs.step import Reference, SampleStep, Slice, Weights
from dgflow.steps.pretrained import Pretrained
from dgflow.steps.shapes import data_shape
from dgflow.steps.sources.image_set import ImageSet
from dgflow.steps.training.train_classifier import TrainClassifier

if TYPE_CHECKING:
    import torch

    from dgflow.specs.bound import Bound
    from dgflow.store.shards import Columns

Read = Callable[[int, int], tuple[list[np.ndarray], np.ndarray]]
Judge = Callable[[list[np.ndarray]], "dict[str, torch.Tensor]"]


class Features(SampleStep):
    """Features and logits of images, for the rows of a slice or of an image set, counted from 0.

    The network is Inception, whose input the `front_end` of a protocol makes (`adm`, `edm`, `clean`), or
    without a `front_end` a classifier of clean images that was trained here, or one's own network. Columns:
    `index`, `label` (-1 where unknown), `features` (float32 [d]), `logits` where the network has some
    (float32 [classes]; Inception's without the bias), of Inception `spatial` (float32 [2023], sFID's), and of
    the image itself `constant` (bool: it is of one colour) and `pixels` (int64, a digest: equal images have
    equal ones).
    """

    samples: Slice | ImageSet
    network: Weights
    front_end: FrontEndName | None = None
    batch_size: BatchSize = 50

    @property
    def length(self) -> int:
        return self.samples.rows

    @property
    def title(self) -> str:
        return f"features of {self.samples.title}"

    @model_validator(mode="after")
    def _a_judge(self) -> Features:
        step = self.network.step
        if isinstance(step, Pretrained) and isinstance(step.network, InceptionV3):
            if self.front_end is None:
                raise ValueError(
                    'expected front_end "adm", "edm" or "clean" for Inception, found none: they give '
                    "different features"
                )
            return self
        if isinstance(step, Pretrained) and isinstance(step.network, OwnFeatures):
            self._check_fits(step)
        elif not isinstance(step, TrainClassifier) or step.noise != "none" or step.network.pool != "adaptive":
            raise ValueError(
                "expected as the feature network Inception's weights, those of OwnFeatures, or those of a "
                "TrainClassifier with "
                f'noise="none" and pool="adaptive", found {step.kind}'
            )
        if self.front_end is not None:
            raise ValueError(
                "expected no front_end, nor protocol, for another network than Inception, found "
                f"{self.front_end!r}: it is Inception's"
            )
        return self

    def _check_fits(self, own: Pretrained) -> None:
        """Raises ValueError where images are of another shape than one's own network says that it takes."""
        if not isinstance(self.samples, Slice):
            return
        found = data_shape(self.samples.step)
        if (found.image_size, found.channels) != (own.image_size, own.channels):
            raise ValueError(
                f"expected images for {own.title}, {own.channels} channels of {own.image_size} pixels a "
                f"side, found {found.channels} of {found.image_size} ({self.samples.title}); give its "
                "Pretrained the image_size and channels of the images"
            )

    def inputs(self) -> dict[str, Reference]:
        """The network first: one that cannot be had is found before samples are made."""
        found = super().inputs()
        return {"network": found.pop("network")} | found

    def network_evaluations(self, rows: int) -> int:
        return rows

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        """Load the network; the function returned makes the rows [start, stop)."""
        import torch

        from dgflow.diffusion.acceleration import device

        place = device()
        network = inputs.network("network").to(place)
        spec = self.network.step.network
        assert isinstance(spec, FeatureNetworkSpec)
        judged = spec.judge(network)

        @torch.no_grad()
        def judge(images: list[np.ndarray]) -> dict[str, torch.Tensor]:
            return judged(_prepared(images, self.front_end, place))

        reader = self._reader(inputs)

        def rows(start: int, stop: int) -> Columns:
            read = reader(start, stop)
            batches = [self._batch(judge, *read(first, last)) for first, last in self._batches(start, stop)]
            columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
            return {"index": np.arange(start, stop, dtype=np.int64)} | columns

        return rows

    def _batches(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Of nearly equal size, so that they depend on the shard and the bound alone."""
        edges = np.linspace(start, stop, -(-(stop - start) // self.batch_size) + 1).astype(int)
        yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)

    def _reader(self, inputs: Bound) -> Callable[[int, int], Read]:
        """For a shard [start, stop): what gives the images and labels of a batch in it."""
        if isinstance(self.samples, ImageSet):
            images = self.samples.open()

            def read_set(start: int, stop: int) -> tuple[list[np.ndarray], np.ndarray]:
                labels = images.labels_of(start, stop)
                return images.read(start, stop), np.full(
                    stop - start, -1, dtype=np.int64
                ) if labels is None else labels

            return lambda start, stop: read_set

        def reader(start: int, stop: int) -> Read:
            rows = inputs.rows(
                "samples", ["image", "label"], start, stop
            )  # once, since a batch alone takes the whole shard to read
            return lambda first, last: (
                list(rows["image"][first - start : last - start]),
                rows["label"][first - start : last - start],
            )

        return reader

    @staticmethod
    def _batch(judge: Judge, images: list[np.ndarray], labels: np.ndarray) -> Columns:
        columns: Columns = {
            "label": np.asarray(labels, dtype=np.int64),
            "constant": np.isin(np.arange(len(images)), constant_indices(images)),
            "pixels": np.frombuffer(b"".join(digest[:8] for digest in pixel_digests(images)), dtype="<i8"),
        }
        return columns | {name: values.float().cpu().numpy() for name, values in judge(images).items()}


def _prepared(images: list[np.ndarray], front_end: FrontEndName | None, device: torch.device) -> torch.Tensor:
    """uint8 [H, W, C] each to float32 [B, C, H, W] in [-1, 1], of one size: by the front end, or as they are.

    Raises ValueError where their sizes differ and no front end makes them equal.
    """
    import torch

    from dgflow.metrics.front_ends import prepare
    from dgflow.steps.training.rows import scaled

    if front_end is not None:
        return prepare(images, front_end, device)
    if shapes := sorted({image.shape for image in images})[1:]:
        raise ValueError(
            f"expected images of one size for another network than Inception, found {images[0].shape} and "
            f"{shapes[-1]}"
        )
    return scaled(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)).to(device)
