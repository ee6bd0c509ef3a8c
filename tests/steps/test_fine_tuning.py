"""A discriminator whose features are trained with its head, from the weights of a classifier."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny
import torch
from inprocess import complete
from pydantic import ValidationError
from torch import Tensor

import dgflow as dg
from dgflow.engine.root import Root
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.weights.tensors import load_weights

EPOCHS = 2


class Trained(NamedTuple):
    frozen: dg.TrainDiscriminator
    tuned: dg.TrainDiscriminator
    store: ObjectStore

    def kept(self, step: dg.TrainDiscriminator, epoch: int = EPOCHS) -> dict[str, Tensor]:
        steps = Root(self.store).step_store(step)
        receipt = steps.receipt(steps.done("epochs", complete(step, self.store).digests)[epoch])
        return dict(load_weights(steps.read(receipt)))


def steps(images: Path) -> tuple[dg.TrainDiscriminator, dg.TrainDiscriminator]:
    """Returns a discriminator on frozen features, and the same on trainable features."""
    classifier = dg.TrainClassifier(
        real=tiny.real(images)[:64], network=tiny.ENCODER, epochs=1, batch_size=16
    )
    head = dg.Perceptron(width=8, layers=1)
    plain = tiny.discriminator(images, EPOCHS)
    frozen = plain.model_copy(update={"features": classifier.last(), "network": head})
    return frozen, frozen.model_copy(update={"fine_tune": True})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("tuned")
    frozen, tuned = steps(tiny.write_images(folder / "images.npz"))
    return Trained(frozen, tuned, open_store(str(folder / "root")))


def test_features_begin_as_given_and_learn_where_they_are_fine_tuned(trained: Trained) -> None:
    given = complete(trained.tuned, trained.store).network("features").state_dict()
    kept, head = trained.kept(trained.tuned), trained.kept(trained.frozen)
    features = {name.removeprefix("features."): kept[name] for name in kept if name.startswith("features.")}
    assert features.keys() == given.keys()
    assert {f"head.{name}" for name in head} == {name for name in kept if name.startswith("head.")}
    changed = {name for name in given if not torch.equal(given[name], features[name])}
    assert {name.split(".")[0] for name in changed} >= {"input_blocks", "middle_block", "time_embed"}
    assert not any(name.startswith("out.") for name in changed)  # the classifier's own head is not used
    # Adam moves each weight by about its learning rate in a step.
    most = 1.5 * trained.tuned.learning_rate * trained.tuned.steps_per_epoch * EPOCHS
    assert all((given[name] - features[name]).abs().max() <= most for name in changed)


def test_each_member_of_an_ensemble_is_asked_with_its_own_features(trained: Trained) -> None:
    """One member is on the features that the other's started from; alone they are loaded separately."""
    guides = (trained.tuned.last(), trained.frozen.last())
    together = log_ratios(trained, guides)
    alone = torch.stack([log_ratios(trained, guide) for guide in guides])
    torch.testing.assert_close(together, alone.mean(0), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(alone[0], alone[1])


def log_ratios(trained: Trained, guides: Any) -> Tensor:
    """Returns the log-ratios of eight samples, with a weight that is too small to move them."""
    term = dg.DiscriminatorGuidance(discriminator=guides, weight=1e-12)
    generate = trained.tuned.fakes[0].step.model_copy(update={"seed": 9, "guidance": (term,)})
    bound = complete(generate[:8], trained.store)
    return torch.as_tensor(generate.shard_builder(bound)(0, 8)["log_ratio"])


def test_a_training_that_was_stopped_ends_with_the_same_bits(trained: Trained, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "root"))
    step = trained.tuned
    complete(step.model_copy(update={"epochs": 1}), store)
    bound = complete(step, store)
    steps = Root(store).step_store(step)
    resumed = load_weights(steps.read(steps.receipt(steps.done("epochs", bound.digests)[EPOCHS])))
    assert all(torch.equal(value, resumed[name]) for name, value in trained.kept(step).items())


def test_fine_tuning_is_identity_only_where_it_is_asked_and_needs_features(trained: Trained) -> None:
    assert "fine_tune" not in trained.frozen.document()["fields"]
    assert trained.tuned.fingerprint != trained.frozen.fingerprint
    with pytest.raises(ValidationError, match="expected features with fine_tune=True"):
        trained.tuned.model_copy(update={"features": None})
    with pytest.raises(ValidationError, match="expected features with fine_tune, "):
        dg.Discriminator(fine_tune=True)


def test_the_whole_network_counts_as_trained_and_shares_no_features(trained: Trained) -> None:
    network = trained.tuned.fresh()
    assert trained.tuned.trained_part(network) is network
    learning = {name.split(".")[0] for name, value in network.named_parameters() if value.requires_grad}
    assert learning == {"features", "head"}
    assert trained.frozen.architecture.frozen_features == trained.frozen.features
    assert trained.tuned.architecture.frozen_features is None
