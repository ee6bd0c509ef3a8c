"""The base of every network that a recipe names: a frozen description that builds and calls the network, and
reads and writes its published files. Importing this module does not load torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from dgflow.specs.spec import SmokeRun, Spec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dgflow.weights.declared import Said
    from dgflow.weights.weight_file import File, WeightFile


GENERAL_FORMATS = ("safetensors", "state_dict")
"""File formats that every network supports: names and tensors, and nothing else."""


UNTOLD = ("dropout",)
"""Fields of networks that do not change the meaning of their weights."""

TOY_GROUPS, TOY_PER_GROUP = 2, 3
"""Latents of a hierarchical autoencoder in smoke runs, instead of 20 and 9."""


class DataShape(NamedTuple):
    """The shape of a network's data: square images or latents; `num_classes` is 0 for unlabelled data."""

    image_size: int
    channels: int
    num_classes: int

    @property
    def values(self) -> int:
        """The number of values of one image or latent."""
        return self.channels * self.image_size**2

    @property
    def toy(self) -> DataShape:
        """The shape in smoke runs: 512 and 256 pixels become 64, 64 and 32 become 16, and latents shrink
        likewise.

        The number of channels distinguishes images (1 or 3), latents of Stable Diffusion's autoencoder (4)
        and latents of hierarchical autoencoders (more). Points, of one pixel, keep their shape.
        """
        side, channels = self.image_size, self.channels
        if side == 1:  # points
            return self
        if channels > 4:
            return self._replace(image_size=max(8, side // 2), channels=TOY_GROUPS * TOY_PER_GROUP)
        if side > (32 if channels == 4 else 256):  # images or latents of 512 pixels
            return self._replace(image_size=max(8, side // 8))
        if channels == 4 or side >= 64:
            return self._replace(image_size=max(8, side // 4))
        return self._replace(image_size=side // 2 if side >= 32 else side)


class NetworkSpec(Spec, ABC):
    """Base of the networks that recipes name."""

    formats: ClassVar[tuple[str, ...]] = ()  # formats of its published files, besides GENERAL_FORMATS
    read_only: ClassVar[tuple[str, ...]] = ()  # formats that smoke runs cannot write
    shares_files: ClassVar[bool] = False  # True if one file may hold several networks
    fixed_size: ClassVar[bool] = False  # True if it accepts images of one size only
    needs_classes: ClassVar[bool] = False
    judges_images: ClassVar[bool] = False  # True if the evaluation can compare its features
    stays_float32: ClassVar[bool] = False  # True if its matrix products never use TF32

    @property
    def title(self) -> str:
        """Title for display."""
        return type(self).__name__

    @property
    def knows_noise(self) -> bool:
        """False for a network of clean samples only: it is called at noise level 0 and cannot guide."""
        return True

    def unlike(self, other: NetworkSpec) -> str:
        """Describe how the meaning of weights differs in `other`; empty if it does not."""
        if type(other) is not type(self):
            return type(other).__name__
        own, theirs = (network.model_dump(exclude=set(UNTOLD)) for network in (self, other))
        changed = (name for name in own if own[name] != theirs[name])
        return ", ".join(f"{name}={theirs[name]!r} for {own[name]!r}" for name in changed)

    def check_recorded(self) -> None:
        """Raise ValueError for a spec from a record that would run code that this process has not imported;
        others may have written the record.
        """

    @abstractmethod
    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Build the network with fresh weights. Raises ValueError for inconsistent settings, or if a package
        is not installed.
        """

    def check(self, shape: DataShape) -> None:
        """Raise ValueError for settings that are impossible for data of that shape. A plan calls it, so it
        computes from the settings and builds nothing.
        """

    def assemble(self, shape: DataShape, load: Callable[[str], nn.Module]) -> nn.Module:
        """Build the network with fresh weights, on top of the networks whose weights it names; `load` returns
        the network of a field.
        """
        del load
        return self.build(**shape._asdict())

    def kept(self, network: Any) -> nn.Module:
        """The part of the built network whose weights are stored; by default, the whole network."""
        return network

    @abstractmethod
    def probe(self, network: Any, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        """Call the network on synthetic data as steps do; estimates count and time this call.

        Args:
            x: float32 [B, C, H, W].
            sigma: float64 [B], noise levels.
            labels: int64 [B]; None for a network without classes.
        """

    def in_smoke(self, smoke: SmokeRun, factor: int) -> Self:
        return super().in_smoke(smoke, factor).toy(factor)

    def toy(self, factor: int) -> Self:
        """The network in smoke runs: narrow, but with all options that select code paths unchanged. `factor`
        divides the image side.
        """
        del factor
        return self

    def fill(self, network: Any) -> None:
        """Replace weights initialised to zero by random ones, for smoke runs: published networks have
        none.
        """
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=0.5 / parameter[0].numel() ** 0.5)

    def read(
        self,
        file: File,
        format: str,
        *,
        network: Any,
        shape: DataShape,
        source: str,
        key: str | None = None,
        beside: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> dict[str, Tensor]:
        """Read the weights from a file, by the names of `kept(network)`; no code from the file is run.

        Args:
            network: `kept(network)` of a built network, possibly on the meta device.
            source: name of the file in errors.
            key: key of the state dict, for a file of GENERAL_FORMATS that holds several.
            beside: settings from accompanying files, by file name.

        Raises:
            ValueError: the file is refused, of another format, damaged or truncated; or it declares settings
                that differ from this network's.
        """
        from dgflow.weights.declared import check_declared

        found = self._content(file, format, network, shape, source, key)
        said = self.said(network, shape)
        check_declared(self.declared(found.settings), said, source)
        for name, settings in (beside or {}).items():
            check_declared(self.declared(settings), said, f"{source}, {name} beside it")
        return found.tensors

    def _content(
        self, file: File, format: str, network: Any, shape: DataShape, source: str, key: str | None
    ) -> WeightFile:
        from dgflow.weights.safetensors_file import read_safetensors
        from dgflow.weights.torch_file import read_checkpoint
        from dgflow.weights.weight_file import WeightFile

        if format == "safetensors":
            return read_safetensors(file, source=source, network=network, key=key)
        if format == "state_dict":
            return read_checkpoint(file, network, source=source, key=key, formats=self.formats)
        found = self.read_published(file, format, network, shape, source)
        return found if isinstance(found, WeightFile) else WeightFile(found, {})

    def said(self, network: Any, shape: DataShape) -> dict[str, Said]:
        """The settings of this network that a file may declare, by the names used in files."""
        from dgflow.weights.declared import Said

        del network
        fields = {name: Said(value, name) for name, value in self.model_dump().items()}
        own = {name: said for name, said in fields.items() if name not in UNTOLD}
        sizes = {"image_size": ("image_size", "img_resolution"), "channels": ("img_channels", "in_channels")}
        sizes["num_classes"] = ("num_classes", "label_dim")
        return own | {
            name: Said(value, field) for field, value in shape._asdict().items() for name in sizes[field]
        }

    def declared(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Translate the settings declared in a file to the names of `said`."""
        from dgflow.weights.declared import flat

        return flat(settings)

    def read_published(
        self, file: File, format: str, network: Any, shape: DataShape, source: str
    ) -> dict[str, Tensor] | WeightFile:
        """Read a file of one of `formats`, as `read` does, with the settings that the file declares, if
        any.
        """
        raise NotImplementedError(f"{type(self).__name__} has no reader of {format}")

    def write(
        self, format: str, network: Any, shape: DataShape, others: Sequence[tuple[NetworkSpec, Any]] = ()
    ) -> bytes:
        """Write a file for smoke runs, of any format except `read_only` ones.

        Args:
            others: further networks in the same file, only with `shares_files`.
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
        """Write a file of one of `formats`, as `write` does."""
        raise NotImplementedError(f"{type(self).__name__} has no writer of {format}")
