"""The base of every network that a recipe names: a frozen description that builds the network, asks it, and
reads and writes its published files. Importing it loads no torch."""

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
"""Formats of files that every network can have: names and tensors, and nothing else."""


UNTOLD = ("dropout",)
"""Fields of networks that change nothing in what their weights mean."""

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
        """Its shape in smoke runs: 512 and 256 pixels become 64, 64 and 32 become 16, and latents follow.

        The channels tell images (1 or 3), latents of Stable Diffusion's autoencoder (4) and of hierarchical
        ones (more) from each other. Points, of one pixel, stay as they are.
        """
        side, channels = self.image_size, self.channels
        if side == 1:  # points
            return self
        if channels > 4:
            return self._replace(image_size=max(8, side // 2), channels=TOY_GROUPS * TOY_PER_GROUP)
        if side > (32 if channels == 4 else 256):  # of 512 pixels
            return self._replace(image_size=max(8, side // 8))
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

    @property
    def knows_noise(self) -> bool:
        """False for a network of clean samples alone: it is asked at noise level 0, and cannot guide."""
        return True

    def unlike(self, other: NetworkSpec) -> str:
        """The difference for people where weights mean something else in `other`; empty where they do not."""
        if type(other) is not type(self):
            return type(other).__name__
        own, theirs = (network.model_dump(exclude=set(UNTOLD)) for network in (self, other))
        changed = (name for name in own if own[name] != theirs[name])
        return ", ".join(f"{name}={theirs[name]!r} for {own[name]!r}" for name in changed)

    def check_recorded(self) -> None:
        """Raise ValueError for a spec from a record, which others may have written, that would run code which
        nobody has imported here."""

    @abstractmethod
    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights.

        Raises:
            ValueError: numbers that do not fit each other, or a package that is not installed.
        """

    def check(self, shape: DataShape) -> None:
        """Raise ValueError for settings that cannot be on data of that shape, as far as arithmetic tells: in
        a plan, where nothing is built."""

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
        """The weights in a file, by the names of `kept(network)`; nothing in the file is run.

        Args:
            network: `kept(network)` of one that `build` gave, possibly on the meta device.
            source: what to call the file in an error.
            key: of the state dict in a file of one of GENERAL_FORMATS that has several.
            beside: settings in files beside it, by the names of these.

        Raises:
            ValueError: refused, another format, damaged or cut short; or it says settings of itself that are
                not those of this network.
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
        """The settings that a file may tell, by the names that files have for them, as they are here."""
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
        """The settings of a file by the names of `said`."""
        from dgflow.weights.declared import flat

        return flat(settings)

    def read_published(
        self, file: File, format: str, network: Any, shape: DataShape, source: str
    ) -> dict[str, Tensor] | WeightFile:
        """As `read`, of a file of one of `formats`; with its settings where it tells some."""
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
