"""The networks of a system (a score network and its guides), as steps load them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dgflow.diffusion import acceleration
from dgflow.diffusion.correction_specs import EpsilonScaling, NetworkGuidance
from dgflow.diffusion.discriminator_guidance import log_ratio_at
from dgflow.diffusion.evaluation import Guides, eagerly
from dgflow.diffusion.gain_curve import GainChoice
from dgflow.diffusion.guidance import Guide
from dgflow.diffusion.guidance_specs import ClassifierFree, Guidance, GuideTerm
from dgflow.diffusion.one_graph import OneGraph
from dgflow.diffusion.overflow import Watch
from dgflow.diffusion.score_model import ScoreModel
from dgflow.diffusion.selection.run import LogRatioAt
from dgflow.networks.families import of_latents, score_network
from dgflow.networks.roles import DiscriminatorSpec
from dgflow.specs.bound import Bound, SharedNetworks
from dgflow.specs.spec import Precision
from dgflow.specs.step import Weights
from dgflow.steps.guides import guides_of, loaded_term, received_classes


class System(NamedTuple):
    """A loaded score network with its guides."""

    score: ScoreModel
    terms: Sequence[Guide]
    classes: int  # number of classes of the labels that the networks receive, 0 for none
    one_graph: OneGraph | None = None  # the graph of `terms`, if the system is compiled
    watch: Watch | None = None  # the watch of `terms`, in float16

    def check(self, name: str) -> None:
        """Raises FloatingPointError if float16 overflowed in the output of `name`. Called at the end of a
        batch, since it waits for the device."""
        if self.watch is not None:
            self.watch.check(name)

    def forget_graphs(self) -> None:
        """Frees memory on the device; graphs are compiled again at their next use."""
        if self.one_graph is not None:
            self.one_graph.forget()


class Networks:
    """Networks on a device, each loaded once, however many terms use it."""

    def __init__(self, inputs: Bound, device: torch.device, precision: Precision) -> None:
        self.device: torch.device = device
        self.precision: Precision = precision
        self._networks = SharedNetworks(inputs.items)

    def score(self, path: str, weights: Weights, guidance: Sequence[Guidance] = ()) -> ScoreModel:
        """Returns the score network of the field `path`, with the weights `weights`, under classifier-free
        guidance if that is requested. A network without classes receives no labels."""
        model = score_network(weights).score_model(self._network(path))
        model = replace(model, latent=of_latents(weights))
        if weights.step.classes == 0:
            model = model.without_labels()
        for term in guidance:
            if isinstance(term, ClassifierFree):
                model = model.classifier_free(term)
        return model

    def terms(self, guides: Mapping[str, GuideTerm], choices: Mapping[str, GainChoice]) -> list[Guide]:
        """Returns the terms and corrections of `guides_of`; `choices` are Gain's, by the same paths."""
        found: list[Guide] = []
        for path, term in guides.items():
            if isinstance(term, EpsilonScaling):
                found.append(term.build())
            elif isinstance(term, NetworkGuidance):
                found.append(term.build(self.score(path, term.network)))
            else:
                found.append(loaded_term(path, term, self._network, choices.get(path)))
        return found

    def log_ratio(self, path: str, weights: Weights) -> LogRatioAt:
        """Returns the log-ratio of the discriminator of the field `path`, at any noise level; a discriminator
        without classes receives no labels."""
        network, spec = self._network(path), weights.step.architecture
        assert isinstance(spec, DiscriminatorSpec)
        time, told = spec.time_map(), weights.step.classes > 0

        def at(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
            return log_ratio_at(network, x, sigma, labels if told else None, time=time).double()

        return at

    def system(
        self,
        score: Weights,
        guidance: Sequence[Guidance],
        path: str,
        choices: Mapping[str, GainChoice],
        *,
        compile: bool = False,
    ) -> System:
        """Returns the score network of the field `score` and the guidance of the field `path`; with
        `compile`, they are evaluated as one graph. In float16 overflows are recorded, and `System.check`
        reports them."""
        one_graph = OneGraph() if compile else None
        watch = Watch(one_graph or eagerly) if self.precision == "float16" else None
        terms: Sequence[Guide] = self.terms(guides_of(path, guidance), choices)
        if (how := watch or one_graph) is not None:
            terms = Guides(terms, how)
        model = self.score("score", score, guidance)
        return System(model, terms, received_classes(score, guidance), one_graph, watch)

    def _network(self, path: str) -> nn.Module:
        network = self._networks.network(path)
        return acceleration.prepared(network, precision=self.precision, device=self.device)
