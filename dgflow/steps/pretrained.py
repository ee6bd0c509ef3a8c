"""Pretrained: a network that was trained elsewhere; fetched, checked and stored in the root as safetensors.

Reading the file runs no code from it. Every tensor's name and shape is compared with the network's before
anything is committed; from then on every worker loads the root's copy. `dgflow.weights` fetches and reads the
files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, field_validator, model_validator

from dgflow.networks.catalogue import CATALOGUE
from dgflow.specs.network import GENERAL_FORMATS, DataShape
from dgflow.specs.spec import LATER, SmokeRun
from dgflow.specs.step import FileStep, NetworkStep, Spread, Step, Weights
from dgflow.store.objects import ObjectStore
from dgflow.weights.entry import CatalogueFile
from dgflow.weights.sources import parse_source, recordable

if TYPE_CHECKING:
    from torch import Tensor

    from dgflow.specs.bound import Bound
    from dgflow.weights.weight_file import File


class Pretrained(NetworkStep, FileStep):
    """The weights at `source`, for `network` on data of `image_size`, `channels` and `num_classes` (0 for no
    classes).

    `source` is a path, `file:`, `https:`, `s3:`, `hf:owner/repository/file@revision`, or the name of a file
    of the catalogue. Its sha256 is checked if `sha256` gives it, and locked in the root at first use
    otherwise. A classifier has `num_classes` outputs; the head of a published discriminator has 1,000 rows of
    labels whatever the data, so give `num_classes=1000`. `key` selects the state dict in a file with several
    that fit, such as "ema", in the formats "safetensors" and "state_dict". `made_up`: random weights, written
    for a smoke run; results with them are meaningless.
    """

    suffix: ClassVar[str] = ".safetensors"
    naming: ClassVar[Mapping[str, str]] = {"Weights": "name its weights: .weights()"}

    source: str
    image_size: int = Field(gt=0)
    channels: int = Field(default=3, gt=0)
    num_classes: int = Field(default=0, ge=0)
    format: str = "safetensors"
    sha256: str | None = None
    made_up: bool = False
    key: Annotated[str | None, LATER] = None

    @field_validator("source")
    @classmethod
    def _absolute_source(cls, source: str) -> str:
        """Makes a path absolute, so that it names the same file from every folder and on every host.

        Sources that can contain a secret are kept out of records.
        """
        return source if source in CATALOGUE else recordable(source).text

    @model_validator(mode="after")
    def _check_classes(self) -> Pretrained:
        if self.num_classes == 0 and self.network.needs_classes:
            raise ValueError(
                f"expected num_classes >= 1 for {type(self.network).__name__}, found 0: give the number "
                "that it was trained on"
            )
        return self

    @model_validator(mode="after")
    def _check_format(self) -> Pretrained:
        known = (*GENERAL_FORMATS, *self.network.formats)
        if self.format not in known:
            raise ValueError(
                f"expected one of the formats {', '.join(known)} for {type(self.network).__name__}, found "
                f"{self.format!r}"
            )
        return self

    @model_validator(mode="after")
    def _check_key(self) -> Pretrained:
        if self.key is not None and self.format not in GENERAL_FORMATS:
            raise ValueError(
                f"expected no key for the format {self.format!r}, which determines the weights itself, "
                f"found {self.key!r}: leave it out, or name one of the formats "
                f"{', '.join(GENERAL_FORMATS)}"
            )
        return self

    @model_validator(mode="after")
    def _check_digest(self) -> Pretrained:
        if self.sha256 is not None and (len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef")):
            raise ValueError(f"expected sha256 as 64 hexadecimal digits in lower case, found {self.sha256!r}")
        return self

    @property
    def title(self) -> str:
        return self.source.rsplit("/", 1)[-1]

    def toy(self, smoke: SmokeRun) -> Step:
        return smoke.checkpoint(self)

    def weights(self) -> Weights:
        """The reference that other steps take."""
        return Weights(step=self, which="file")

    @property
    def shape(self) -> DataShape:
        return DataShape(self.image_size, self.channels, self.num_classes)

    @property
    def is_made_up(self) -> bool:
        return self.made_up

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns the weights as safetensors, fetched and checked.

        Raises:
            ValueError: the file is truncated, differs from the locked one, has another format, or does not
                fit the network.
        """
        del spread
        import torch

        from dgflow.weights.declared import beside
        from dgflow.weights.fetch import read_fetched
        from dgflow.weights.tensors import check_fits, save_weights

        # Built before anything is fetched, so that invalid settings are reported within a second instead of
        # after gigabytes. It takes no memory, unless the network reads other networks, which are loaded.
        with torch.device("cpu" if inputs.items else "meta"):
            network = self.trained_part(self.build(inputs))
        settings = beside(parse_source(self.source)) if self.source not in CATALOGUE else {}

        def tensors(file: File) -> dict[str, Tensor]:
            read = self.network.read(
                file,
                self.format,
                network=network,
                shape=self.shape,
                source=self.source,
                key=self.key,
                beside=settings,
            )
            check_fits(network, read, source=self.source)
            return read

        return save_weights(read_fetched(store, self._file, tensors, self.sha256))

    def check_unchanged(self, read: Callable[[], bytes], store: ObjectStore) -> None:
        """Compares the source with the file that was read, as far as that needs no download.

        Raises ValueError if the source has different weights now.
        """
        del read
        from dgflow.weights.fetch import check_unchanged

        check_unchanged(store, self._file, self.name)

    @property
    def _file(self) -> CatalogueFile | str:
        return CATALOGUE.get(self.source, self.source)
