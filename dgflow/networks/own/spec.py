"""A user's own networks, named by the import path of their code: `package.module:function`.

The module is imported only when a network is built. Its source text is not part of a step's identity, so
raise `version` by hand when the results of the code change.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, field_validator, model_validator

from dgflow.networks.own.errors import own_code
from dgflow.networks.roles import FeatureNetworkSpec, ScoreNetworkSpec
from dgflow.specs.network import DataShape, NetworkSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dgflow.diffusion.score_model import ScoreModel
    from dgflow.weights.declared import Said

Option = bool | int | float | str | tuple[int, ...]

_FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_GIVEN = ("image_size", "channels", "num_classes")


class OwnNetwork(NetworkSpec):
    """A network made by `factory(image_size=, channels=, num_classes=, **options)`. The factory is a function
    that returns a module, or the module's class.
    """

    factory: str
    options: Mapping[str, Option] = {}
    version: int = Field(default=1, ge=1)

    @field_validator("factory")
    @classmethod
    def _a_name(cls, factory: str) -> str:
        if not _FACTORY.fullmatch(factory):
            raise ValueError(f'expected a factory as "package.module:function", found {factory!r}')
        return factory

    @field_validator("options")
    @classmethod
    def _not_given_twice(cls, options: Mapping[str, Option]) -> Mapping[str, Option]:
        if twice := sorted(set(options) & set(_GIVEN)):
            raise ValueError(
                f"expected options other than {', '.join(_GIVEN)}, which the Pretrained sets, found "
                f"{', '.join(twice)}"
            )
        return options

    @property
    def title(self) -> str:
        return self.factory

    def check_recorded(self) -> None:
        module = self.factory.partition(":")[0]
        if module not in sys.modules:
            raise ValueError(
                f"expected the module {module} to be imported, found only a record that names "
                f"{self.factory}; code that a record names is not imported automatically: import {module} "
                "first"
            )

    def said(self, network: Any, shape: DataShape) -> dict[str, Said]:
        """The settings that a file may declare, including the options."""
        from dgflow.weights.declared import Said

        options = {name: Said(value, f"options[{name!r}]") for name, value in self.options.items()}
        said = super().said(network, shape)
        del said["options"], said["version"]
        return said | options

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Build the network with fresh weights, on the CPU.

        Raises:
            ValueError: the factory does not exist, does not take these arguments, or does not return a torch
                module.
        """
        import torch

        factory = _imported(self.factory)
        arguments: dict[str, Any] = {
            "image_size": image_size,
            "channels": channels,
            "num_classes": num_classes,
            **self.options,
        }
        _check_takes(factory, arguments, self.factory)
        # Elsewhere, shapes are checked on the meta device. User code may read values of its own tensors,
        # which fails there.
        with torch.device("cpu"), own_code(self.factory):
            network = factory(**arguments)
        if not isinstance(network, torch.nn.Module):
            raise ValueError(
                f"{self.factory}: expected a torch.nn.Module from the factory, found {type(network).__name__}"
            )
        return network


class OwnDenoiser(OwnNetwork, ScoreNetworkSpec):
    """A score network in EDM's convention: `network(x, sigma, class_labels)` returns the expected clean
    images.

    `x` is float32 [B, C, H, W]: clean images in [-1, 1] plus noise of standard deviation `sigma`, float32
    [B]. `class_labels` is int64 [B], or None if `num_classes` is 0. `sigma_min` and `sigma_max` bound the
    noise levels of the network's training; samplers stay within them. With `latent` the samples are latents,
    for a decoder. Sampling uses float32.
    """

    sigma_min: float = Field(default=0.002, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)
    latent: bool = False

    @model_validator(mode="after")
    def _a_range(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"expected sigma_min below sigma_max, found {self.sigma_min} and {self.sigma_max}"
            )
        return self

    @property
    def gives_latents(self) -> bool:
        return self.latent

    def score_model(self, network: nn.Module) -> ScoreModel:
        """The functions by which samplers call `network`.

        Raises ValueError for a network in a precision other than float32.
        """
        import torch

        from dgflow.diffusion.score_model import ScoreModel

        if converted := {
            str(p.dtype) for p in network.parameters() if p.is_floating_point() and p.dtype != torch.float32
        }:
            raise ValueError(
                f'{self.factory}: expected precision="float32", found {", ".join(sorted(converted))}: '
                "dgflow does not know which layers of your network tolerate lower precision; convert them in "
                "its forward"
            )

        def denoiser(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
            with own_code(self.factory):
                denoised = network(x.float(), sigma.float(), class_labels)
            if not isinstance(denoised, torch.Tensor) or denoised.shape != x.shape:
                raise ValueError(
                    f"{self.factory}: expected denoised images of shape {list(x.shape)}, found "
                    f"{_described(denoised)}"
                )
            return denoised

        return ScoreModel(denoiser, sigma_range=(self.sigma_min, self.sigma_max), latent=self.latent)


class OwnFeatures(OwnNetwork, FeatureNetworkSpec):
    """A feature network for the evaluation: `network(images)` returns features [B, d] or, with `logits`,
    (features, logits [B, classes]).

    images: float32 [B, C, H, W] in [-1, 1], with the `image_size` and `channels` of the `Pretrained`. The
        Inception score is computed from the logits.
    """

    logits: bool = False

    @property
    def gives_logits(self) -> bool:
        return self.logits

    def probe(self, network: nn.Module, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        output = network(x)
        return output[0] if isinstance(output, tuple) else output

    def judge(self, network: nn.Module) -> Callable[[Tensor], dict[str, Tensor]]:
        return lambda images: self.judged(network, images)

    def judged(self, network: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """Evaluate `features` and, if any, `logits`. Raises ValueError for an output of another form."""
        import torch

        with own_code(self.factory):
            output = network(images)
        parts = list(output) if isinstance(output, tuple | list) else [output]
        named: dict[str, Tensor] = dict(zip(("features", "logits", "more"), parts, strict=False))
        wanted = ("features", "logits") if self.logits else ("features",)
        if tuple(named) != wanted or any(
            not isinstance(values, torch.Tensor) or values.ndim != 2 or len(values) != len(images)
            for values in named.values()
        ):
            expected = "(features, logits)" if self.logits else "features"
            raise ValueError(
                f"{self.factory}: expected {expected} of shape [{len(images)}, d] with logits={self.logits}, "
                f"found {', '.join(map(_described, named.values()))}"
            )
        return named


def _imported(factory: str) -> Any:
    """Import the callable that `factory` names."""
    module_name, _, name = factory.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        folders = ", ".join(
            folder or os.getcwd()
            for folder in sys.path
            if not folder.endswith(("-packages", ".zip", "lib-dynload"))
        )
        raise ValueError(
            f"{factory}: expected a Python module {module_name}, found none that can be imported ({error}); "
            f"searched {folders} and the installed packages. Put the module beside the recipe, or install "
            "it; on a cluster, submit the folder of both: ray job submit --working-dir FOLDER -- python "
            "RECIPE.py"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        names = (
            ", ".join(
                sorted(
                    key for key, value in vars(module).items() if callable(value) and not key.startswith("_")
                )
            )
            or "none"
        )
        what = f"a {type(found).__name__}" if hasattr(module, name) else "nothing"
        raise ValueError(
            f"{factory}: expected a function {name} in {module.__file__}, found {what}; callables there: "
            f"{names}"
        )
    return found


def _check_takes(factory: Any, arguments: dict[str, Any], name: str) -> None:
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise ValueError(
            f"{name}: expected a function that takes {', '.join(arguments)} by name, found "
            f"{inspect.signature(factory)} ({error}); add **_ for unused arguments"
        ) from error


def _described(value: object) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{list(shape)}"
