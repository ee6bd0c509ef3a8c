"""Features of images in a judge network, computed once and shared by every comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import model_validator

from dgflow.images.preparation import with_channels
from dgflow.metrics.checks import constant_indices, pixel_digests
from dgflow.metrics.protocols import FrontEndName
from dgflow.networks.roles import FeatureNetworkSpec
from dgflow.specs.spec import BatchSize
from dgflow.specs.step import INDEX_AND_LABEL, Reference, SampleStep, Slice, Weights, Work
from dgflow.steps.sources.image_set import ImageSet

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dgflow.specs.bound import Bound
    from dgflow.store.shards import Columns

IMAGE_FLAGS = 9  # bytes per row of `constant` and `pixels`

Read = Callable[[int, int], tuple[list[np.ndarray], np.ndarray]]
Judge = Callable[[list[np.ndarray]], "dict[str, torch.Tensor]"]


class Features(SampleStep):
    """Features and logits of images, for the rows of a slice or of an image set, counted from 0.

    The network is Inception with the `front_end` of a protocol (`adm`, `edm`, `clean`) or, without a
    `front_end`, a classifier of clean images that was trained in the recipe, or a network of your own.
    Columns: `index`, `label` (-1 if unknown), `features` (float32 [d]), `logits` if the network has them
    (float32 [classes]; Inception's without the bias), for Inception `spatial` (float32 [2023], sFID's), and
    facts about the image itself: `constant` (bool: it has a single colour) and `pixels` (int64, a digest:
    equal images have equal ones).
    """

    maps: ClassVar[str] = "samples"

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
    def _check_network(self) -> Features:
        step = self.network.step
        if not step.judges_images:
            raise ValueError(
                "expected as the feature network Inception's weights, those of OwnFeatures, or those of a "
                f'TrainClassifier with noise="none" and pool="adaptive", found {step.kind}'
            )
        if self.spec.takes_front_end:
            if self.front_end is None:
                raise ValueError(
                    'expected front_end "adm", "edm" or "clean" for Inception, found none: they give '
                    "different features"
                )
            return self
        if self.front_end is not None:
            raise ValueError(
                "expected no front_end, nor protocol, for another network than Inception, found "
                f"{self.front_end!r}, which is defined for Inception only"
            )
        if isinstance(self.samples, Slice) and step.folder == "results":
            shape, images = step.shape, self.samples.step.shape
            if images[:2] != shape[:2]:
                raise ValueError(
                    f"expected images for {step.title}, {shape.channels} channels of {shape.image_size} "
                    f"pixels per side, found {images.channels} of {images.image_size} "
                    f"({self.samples.title}); give its Pretrained the image_size and channels of the images"
                )
        return self

    @property
    def spec(self) -> FeatureNetworkSpec:
        """The network's spec."""
        spec = self.network.step.architecture
        assert isinstance(spec, FeatureNetworkSpec)
        return spec

    @property
    def widths(self) -> tuple[int, ...] | None:
        """The widths of the columns of features; None if they are only known by running the network."""
        return self.spec.feature_widths(self.network.step.shape.num_classes)

    @property
    def row_bytes(self) -> int | None:
        return None if self.widths is None else INDEX_AND_LABEL + IMAGE_FLAGS + 4 * sum(self.widths)

    def inputs(self) -> dict[str, Reference]:
        """The inputs, the network first, so that a network that is unavailable is reported before samples are
        made."""
        inputs = super().inputs()
        return {"network": inputs.pop("network")} | inputs

    def network_evaluations(self, rows: int) -> int:
        return rows

    def work(self, amount: int) -> list[Work]:
        return [Work(self.network.step, "forward", amount, self.batch_size)]

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        """Loads the network; the returned function computes the rows [start, stop)."""
        from dgflow.diffusion.acceleration import device

        judge = self.judge(inputs.network("network"), device())
        reader = self._reader(inputs)

        def rows(start: int, stop: int) -> Columns:
            read = reader(start, stop)
            batches = [self._batch(judge, *read(first, last)) for first, last in self._batches(start, stop)]
            columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
            return {"index": np.arange(start, stop, dtype=np.int64)} | columns

        return rows

    def judge(self, network: nn.Module, own_device: torch.device) -> Judge:
        """Returns a function that computes the columns of images (uint8 [H, W, C] each) with the loaded
        `network`."""
        import torch

        channels = self.network.step.shape.channels
        judged = self.spec.judge(network.to(own_device))

        @torch.no_grad()
        def judge(images: list[np.ndarray]) -> dict[str, torch.Tensor]:
            return judged(_prepared(images, self.front_end, channels, own_device))

        return judge

    def _batches(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Returns batches of nearly equal size, which depend only on the shard and the bound."""
        edges = np.linspace(start, stop, -(-(stop - start) // self.batch_size) + 1).astype(int)
        yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)

    def _reader(self, inputs: Bound) -> Callable[[int, int], Read]:
        """Returns a function of a shard [start, stop) that gives a reader of the images and labels of its
        batches."""
        if isinstance(self.samples, ImageSet):
            images = self.samples.open()

            def read_set(start: int, stop: int) -> tuple[list[np.ndarray], np.ndarray]:
                labels = images.labels_of(start, stop)
                unknown = np.full(stop - start, -1, dtype=np.int64)
                return images.read(start, stop), unknown if labels is None else labels

            return lambda start, stop: read_set

        def reader(start: int, stop: int) -> Read:
            # All at once, since reading a single batch reads the whole shard.
            rows = inputs.rows("samples", ["image", "label"], start, stop)
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


def _prepared(
    images: list[np.ndarray], front_end: FrontEndName | None, channels: int, device: torch.device
) -> torch.Tensor:
    """Prepares images (uint8 [H, W, C] each) as float32 [B, C, H, W] in [-1, 1], of one size: by the front
    end, or unchanged, with grey images repeated to the network's number of channels.

    Raises ValueError if their sizes differ and no front end equalises them, and for colour pictures if the
    network has one channel.
    """
    import torch

    from dgflow.metrics.front_ends import prepare
    from dgflow.steps.training.rows import scaled

    if front_end is not None:
        return prepare(images, front_end, device)
    images = [with_channels(image, channels) for image in images]
    if shapes := sorted({image.shape for image in images})[1:]:
        raise ValueError(
            f"expected images of one size for another network than Inception, found {images[0].shape} and "
            f"{shapes[-1]}"
        )
    return scaled(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)).to(device)
