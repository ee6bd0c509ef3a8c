"""The base of every network that a recipe names: a frozen description that builds the network, asks it, and
reads and writes its published files. Importing it loads no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from dgflow.specs.spec import SmokeRun, Spec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dgflow.weights.weight_file import File


GENERAL_FORMATS = ("safetensors", "state_dict")
"""Formats of files that every network can have: names and tensors, and nothing else."""


TOY_GROUPS, TOY_PER_GROUP = 2, 3
"""The latents of a hierarchical autoencoder in smoke runs, in the place of 20 and 9."""


class DataShape(NamedTuple):
    """The data that a network is for: square images or latents; `num_classes` 0 where they have none."""

    image_size: int
    channels: int
    num_classes: int

    @property
    def values(self) -> int:
        """The number of values of one image or latent."""
        return self.channels * self.image_size**2

    @property
    def toy(self) -> DataShape:
        """Its shape in smoke runs: 256 pixels become 64, 64 and 32 become 16, and latents follow.

        The channels tell images (1 or 3), latents of Stable Diffusion's autoencoder (4) and of hierarchical
        ones (more) from each other.
        """
        side, channels = self.image_size, self.channels
        if channels > 4:
            return self._replace(image_size=max(8, side // 2), channels=TOY_GROUPS * TOY_PER_GROUP)
        if channels == 4 or side >= 64:
            return self._replace(image_size=max(8, side // 4))
        return self._replace(image_size=side // 2 if side >= 32 else side)


class NetworkSpec(Spec, ABC):
    """A network as recipes name it."""

    formats: ClassVar[tuple[str, ...]] = ()  # of its published files, beside GENERAL_FORMATS
    read_only: ClassVar[tuple[str, ...]] = ()  # those of them that smoke runs cannot write
    shares_files: ClassVar[bool] = False  # a file of it may hold other networks too
    fixed_size: ClassVar[bool] = False  # it takes images of one size alone
    needs_classes: ClassVar[bool] = False
    judges_images: ClassVar[bool] = False  # its features can be compared by the evaluation
    stays_float32: ClassVar[bool] = False  # its matrix products never use TF32

    @property
    def title(self) -> str:
        """For people."""
        return type(self).__name__

    @abstractmethod
    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights.

        Raises:
            ValueError: numbers that do not fit each other, or a package that is not installed.
        """

    def assemble(self, shape: DataShape, load: Callable[[str], nn.Module]) -> nn.Module:
        """The network with fresh weights, on other networks where it names the weights of some: `load` gives
        the network of a field."""
        del load
        return self.build(**shape._asdict())

    def kept(self, network: Any) -> nn.Module:
        """The part of what `build` gave whose weights are kept: all, by default."""
        return network

    @abstractmethod
    def probe(self, network: Any, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        """The output for made-up data, asked as steps ask it: counted and timed by estimates.

        Args:
            x: float32 [B, C, H, W].
            sigma: float64 [B], noise levels.
            labels: int64 [B], None for a network that is asked about no class.
        """

    def in_smoke(self, smoke: SmokeRun, factor: int) -> Self:
        return super().in_smoke(smoke, factor).toy(factor)

    def toy(self, factor: int) -> Self:
        """Its form in smoke runs: narrow, with the options that choose other code as they are. `factor` is
        what image sides are divided by."""
        del factor
        return self

    def fill(self, network: Any) -> None:
        """Replace weights that begin as zero by random ones, for smoke runs: published networks have none."""
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=0.5 / parameter[0].numel() ** 0.5)

    def read(
        self, file: File, format: str, *, network: Any, shape: DataShape, source: str
    ) -> dict[str, Tensor]:
        """The weights in a file, by the names of `kept(network)`; nothing in the file is run.

        Args:
            source: what to call the file in an error.

        Raises:
            ValueError: refused, another format, damaged or cut short.
        """
        from dgflow.weights.safetensors_file import read_safetensors
        from dgflow.weights.torch_file import read_state_dict

        general = {"safetensors": read_safetensors, "state_dict": read_state_dict}
        if format in general:
            return general[format](file, source=source).tensors
        return self.read_published(file, format, network, shape, source)

    def read_published(
        self, file: File, format: str, network: Any, shape: DataShape, source: str
    ) -> dict[str, Tensor]:
        """As `read`, of a file of one of `formats`."""
        raise NotImplementedError(f"{type(self).__name__} has no reader of {format}")

    def write(
        self, format: str, network: Any, shape: DataShape, others: Sequence[tuple[NetworkSpec, Any]] = ()
    ) -> bytes:
        """A file for smoke runs, of any format but `read_only` ones.

        Args:
            others: networks that are in the same file, only where `shares_files`.
        """
        from dgflow.weights.tensors import save_weights
        from dgflow.weights.torch_file import save_torch

        if format in self.formats:
            return self.write_published(format, network, shape, others)
        tensors = self.kept(network).state_dict()
        return save_weights(tensors) if format == "safetensors" else save_torch(dict(tensors))

    def write_published(
        self, format: str, network: Any, shape: DataShape, others: Sequence[tuple[NetworkSpec, Any]]
    ) -> bytes:
        """As `write`, a file of one of `formats`."""
        raise NotImplementedError(f"{type(self).__name__} has no writer of {format}")
