"""Warnings about a run, derived from its recipe and its receipts: saturated samples, networks at chance
level, avoidably slow workers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from dgflow.engine.plan import StepPlan
from dgflow.engine.receipt_warnings import receipt_warnings
from dgflow.report.own_receipts import own_receipts
from dgflow.specs.step import Weights
from dgflow.specs.train_step import Chance, TrainStep
from dgflow.steps.training.train_classifier import TrainClassifier
from dgflow.steps.training.train_discriminator import TrainDiscriminator
from dgflow.store.receipts import Receipt

_NEAR_CHANCE = 0.005  # in units of the loss
_ERRORS = 3.0  # standard errors of an accuracy


def doubts(plans: Sequence[StepPlan], receipts: Mapping[str, list[Receipt]]) -> list[str]:
    """Returns warnings about the steps of a recipe; `receipts` are those of `all_receipts`. A smoke run gets
    none, since its results are meaningless."""
    if any(plan.step.is_made_up for plan in plans):
        return []
    lines = [line for plan in plans for line in plan.step.cautions()]
    for plan in plans:
        lines += receipt_warnings(plan.step, own_receipts(receipts, plan.step))
    for weights in _trained(plans):
        own = own_receipts(receipts, weights.step)
        if len(own) >= len(weights.step.parts(())):
            lines += _at_chance(weights, {receipt.number: receipt.metrics for receipt in own})
    return list(dict.fromkeys(lines))


def choice_doubts(plans: Sequence[StepPlan]) -> list[str]:
    """Returns warnings about values, such as a weight or an epoch, that steps chose by measurements."""
    if any(plan.step.is_made_up for plan in plans):
        return []
    return [
        f"{plan.step.title}: {choice.warning}"
        for plan in plans
        for choice in (plan.bound.choices.values() if plan.bound else ())
        if choice.warning
    ]


def _trained(plans: Sequence[StepPlan]) -> Iterator[Weights]:
    """Yields the trained weights that the steps read."""
    for plan in plans:
        for reference in plan.step.inputs().values():
            if isinstance(reference, Weights) and isinstance(reference.step, TrainStep):
                yield reference


def _at_chance(weights: Weights, metrics: dict[int, dict[str, float]]) -> list[str]:
    step, chosen = weights.step, metrics[weights.choose(metrics)]
    assert isinstance(step, TrainStep)
    if isinstance(step, TrainDiscriminator) and "held_out_loss" in chosen:
        loss, chance = chosen["held_out_loss"], step.chance
        if loss > chance.loss - _NEAR_CHANCE:
            return [
                f"{step.title}: its held-out loss {loss:.4f} is that of chance, {_words(chance)}: the "
                "discriminator does not separate real from fake, so its guidance is meaningless; train it "
                "longer, on more fakes, or at another learning rate, unless the samples are already too good "
                "for it to distinguish"
            ]
    if isinstance(step, TrainClassifier) and "held_out_accuracy" in chosen and step.classes > 1:
        share, accuracy = 1 / step.classes, chosen["held_out_accuracy"]
        if accuracy < share + _ERRORS * math.sqrt(share * (1 - share) / step.held_out_items):
            return [
                f"{step.title}: its held-out accuracy {accuracy:.3f} is near that of chance, {share:.3f} for "
                f"{step.classes} classes: the classifier learned nothing, so its features are meaningless; "
                "train it longer, or at another learning rate"
            ]
    return []


def _words(chance: Chance) -> str:
    return f"{chance.words} = {chance.loss:.4f}"
