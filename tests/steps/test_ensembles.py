"""Several discriminators that guide one sampler: what is made, loaded, computed once, planned and refused."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inprocess import complete
from steps.test_score_models import SAMPLERS
from steps.toy_networks import HEAD, SCORES, pretrained, randomised
from torch import nn

import dgflow as dg
from dgflow.diffusion.ensembles import combined
from dgflow.diffusion.guidance_settings import Combine
from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.estimate.estimates import counted, piloted
from dgflow.networks.discriminator.ensemble import EnsembleModule
from dgflow.specs.bound import Bound, BoundWeights, SharedNetworks
from dgflow.specs.step import Weights
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.weights.tensors import save_weights

COMBINE: tuple[Combine, ...] = ("logits", "probabilities")
IMAGES: dict[str, Any] = {"image_size": 8, "num_classes": 3}


class Networks:
    """A score network, two noisy classifiers, and discriminators on the first, on the second, and on none."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, open_store(str(folder / "root"))
        self.score = pretrained(folder, "SongUNet", **SCORES["SongUNet"]).weights()
        self.classifiers = [self.classifier(number) for number in range(2)]
        self.a, self.b, self.c = (self.discriminator(number) for number in range(3))
        self.elsewhere = self.discriminator(3, features=self.classifiers[1])
        self.alone = self.discriminator(4, features=None)

    def classifier(self, number: int) -> Weights:
        return self.file(f"classifier-{number}", HEAD, number, {**IMAGES, "network": HEAD})

    def discriminator(self, number: int, **changes: Any) -> Weights:
        features = changes.pop("features", self.classifiers[0])
        fields = {**IMAGES, "network": dg.Discriminator(head=HEAD, features=features)}
        return self.file(f"head-{number}", HEAD, number, fields | changes)

    def file(self, name: str, head: dg.ADMEncoder, number: int, fields: dict[str, Any]) -> Weights:
        """Returns the weights of a file of random numbers, with the seed `number`."""
        path = self.folder / f"{name}.safetensors"
        step = dg.Pretrained(source=str(path), **fields)
        torch.manual_seed(number)
        path.write_bytes(save_weights(randomised(step.trained_part(step.fresh()), number)))
        return step.weights()

    def generate(self, discriminator: Any, **fields: Any) -> dg.Generate:
        """Returns guided samples; settings that are not fields of `Generate` are the guidance's."""
        own = {name: fields.pop(name) for name in list(fields) if name in dg.Generate.model_fields}
        guide = dg.DiscriminatorGuidance(
            discriminator=discriminator, **{"weight": 40.0, "second_order_weight": 20.0, **fields}
        )
        options = {"sampler": SAMPLERS["Heun"], "guidance": (guide,), "shard_size": 4, **own}
        return dg.Generate(score=self.score, **options)

    def rows(self, step: dg.Generate, start: int = 0, stop: int = 4) -> dict[str, np.ndarray]:
        return step.shard_builder(complete(step, self.store))(start, stop)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    return Networks(tmp_path_factory.mktemp("ensembles"))


@pytest.mark.parametrize("combine", COMBINE)
def test_a_tuple_of_one_gives_the_bits_of_the_one(networks, combine):
    single = networks.rows(networks.generate(networks.a, boost=dg.Boost()))
    several = networks.rows(networks.generate((networks.a,), boost=dg.Boost(), combine=combine))
    assert single.keys() == several.keys()
    assert all((single[name] == several[name]).all() for name in single)


@pytest.mark.parametrize(("sampler", "combine"), list(zip(SAMPLERS, COMBINE * 3, strict=False)))
def test_every_sampler_takes_an_ensemble(networks, sampler, combine):
    members = (networks.a, networks.elsewhere, networks.alone)
    settings: dict[str, Any] = {"sampler": SAMPLERS[sampler], "weight": 5.0, "tau_max": 0.8}
    own = networks.rows(networks.generate(networks.a, **settings))
    made = networks.rows(networks.generate(members, combine=combine, **settings))
    assert (made["image"] != own["image"]).any() and (made["label"] == own["label"]).all()
    assert made["log_ratio"].dtype == np.float32 and np.isfinite(made["log_ratio"]).all()


@pytest.mark.parametrize("combine", COMBINE)
def test_the_column_log_ratio_is_the_combined_one(networks, combine):
    """The guidance is too weak to move a sample, so the members' own columns are of the same samples."""
    weak: dict[str, Any] = {"weight": 1e-12, "second_order_weight": 0.0}
    members = (networks.a, networks.b, networks.alone)
    columns = [networks.rows(networks.generate(member, **weak))["log_ratio"] for member in members]
    found = networks.rows(networks.generate(members, combine=combine, **weak))["log_ratio"]
    expected = combined(torch.from_numpy(np.stack(columns)), combine).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(columns, axis=0).min() > 1e-3


def test_an_ensemble_follows_a_classifier_whose_norm_it_matches_and_shares_its_network(networks):
    classifier = dg.ClassifierGuidance(classifier=networks.classifiers[0])
    ensemble = dg.DiscriminatorGuidance(
        discriminator=(networks.a, networks.b), match_preceding_norm=True, boost=dg.Boost(), saturate=True
    )
    step = networks.generate(networks.a, guidance=(classifier, ensemble))
    assert np.isfinite(networks.rows(step)["log_ratio"]).all()
    loaded = SharedNetworks(complete(step, networks.store).items)
    shared = loaded.network("guidance.0.classifier")
    assert loaded.network("guidance.1.discriminator.0").get_submodule("features") is shared
    assert loaded.network("guidance.1.discriminator.1").get_submodule("features") is shared


def test_a_sample_does_not_depend_on_its_batch(networks):
    members = (networks.a, networks.b, networks.elsewhere)
    whole, *parts = (
        networks.rows(networks.generate(members, combine="probabilities", batch_size=size), start, stop)
        for size, start, stop in ((4, 0, 4), (4, 0, 1), (4, 1, 4))
    )
    together = np.concatenate([part["image"] for part in parts]).astype(int)
    assert abs(together - whole["image"]).max() <= 1  # one grey level, if rounding differs
    np.testing.assert_allclose(
        np.concatenate([part["log_ratio"] for part in parts]), whole["log_ratio"], rtol=1e-4, atol=1e-5
    )


def test_an_ensemble_samples_in_bfloat16(networks):
    step = networks.generate((networks.a, networks.b), precision="bfloat16", weight=1.0)
    wide = networks.generate((networks.a, networks.b), weight=1.0)
    narrow, exact = (networks.rows(each)["log_ratio"] for each in (step, wide))
    np.testing.assert_allclose(narrow, exact, atol=0.1)


def test_out_of_memory_halves_the_batch_of_an_ensemble(networks, monkeypatch):
    sizes: list[int] = []

    def small(self: EnsembleModule, x: torch.Tensor, *others: Any) -> torch.Tensor:
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x, *others)

    forward = EnsembleModule.forward
    monkeypatch.setattr(EnsembleModule, "forward", small)
    found = networks.rows(networks.generate((networks.a, networks.b)))
    monkeypatch.undo()
    expected = networks.rows(networks.generate((networks.a, networks.b), batch_size=2))
    assert sizes[:2] == [4, 2] and all((found[name] == expected[name]).all() for name in expected)


def loaded(networks: Networks, members: Sequence[Weights]) -> list[nn.Module]:
    """Returns the members as a worker has them."""
    bound = SharedNetworks(complete(networks.generate(tuple(members)), networks.store).items)
    return [bound.network(f"guidance.0.discriminator.{number}") for number in range(len(members))]


def answer(module: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits of two samples, and the gradient of their sum."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 3, 8, 8, generator=generator, requires_grad=True)
    logits = module(x, torch.tensor([0.2, 0.7]), torch.tensor([0, 2]))
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    return logits.detach(), gradient


def test_shared_features_are_computed_once_and_give_what_separate_ones_give(networks):
    members = loaded(networks, [networks.a, networks.b, networks.elsewhere, networks.alone, networks.c])
    features = [dict(member.named_children()).get("features") for member in members]
    assert features[0] is features[1] is features[4] and features[2] is not features[0]
    calls = []
    for number in (0, 2):
        block = members[number].get_submodule("features.middle_block")
        block.register_forward_hook(lambda *_, number=number: calls.append(number))
    logits, gradient = answer(EnsembleModule(members))
    assert calls == [0, 2]
    each = [answer(deepcopy(member)) for member in members]
    assert (logits == torch.stack([own for own, _ in each])).all()
    total = torch.stack([own for _, own in each]).sum(0)
    torch.testing.assert_close(gradient, total, rtol=1e-5, atol=1e-6 * float(total.abs().max()))


class Whole(dg.Discriminator):
    """A discriminator whose features are trained with its head, so all of it is stored."""

    def kept(self, network: Any) -> nn.Module:
        return network


def test_features_that_were_trained_on_are_a_network_of_their_own(networks):
    spec = Whole(head=HEAD, features=networks.classifiers[0])
    tuned = networks.file("tuned", HEAD, 7, {**IMAGES, "network": spec})
    others = loaded(networks, [networks.a, networks.b])
    mixed = loaded(networks, [networks.a, tuned, networks.b])
    assert mixed[0].features is mixed[2].features and mixed[1].features is not mixed[0].features
    for before, after in zip(others, (mixed[0], mixed[2]), strict=True):
        assert (answer(before)[0] == answer(after)[0]).all()
    assert (mixed[1].get_submodule("features").state_dict()["out.2.c_proj.bias"] != 0).any()


def test_one_classifier_that_was_trained_twice_is_two_networks(networks):
    """The same step with another file: the bytes decide, not the recipe."""
    step = networks.generate((networks.a, networks.b))
    bound = complete(step, networks.store)
    name = "guidance.0.discriminator.1"
    item = bound.items[name]
    assert isinstance(item, BoundWeights)
    features = item.inputs.items["network.features"]
    assert isinstance(features, BoundWeights)
    other = Root(MemoryStore("again")).step_store(features.step)  # type: ignore[arg-type]
    weights = save_weights(randomised(features.step.build(Bound()), 9))
    receipt = other.commit(
        "results",
        0,
        weights,
        suffix="safetensors",
        rows_sha256="1" * 64,
        inputs={},
        seconds=0.0,
        device="cpu",
        versions={},
    )
    again = BoundWeights(features.step, other, receipt, Bound())
    changed = BoundWeights(item.step, item.step_store, item.receipt, Bound({"network.features": again}))
    shared = SharedNetworks({**bound.items, name: changed})
    first, second = (shared.network(f"guidance.0.discriminator.{number}") for number in range(2))
    assert first.features is not second.features


def test_a_plan_counts_shared_features_once(networks):
    members = (networks.a, networks.b, networks.elsewhere, networks.c, networks.alone)
    score, *guides = networks.generate(members).work(10)
    assert [work.use for work in guides] == [
        "gradient",
        "head-gradient",
        "gradient",
        "head-gradient",
        "gradient",
    ]
    assert [work.network.fingerprint for work in guides] == [member.fingerprint for member in members]
    one = networks.generate(networks.a).work(10)
    assert score == one[0] and {work.times for work in guides} == {one[1].times}


def counts(networks: Networks, discriminator: Any, store: ObjectStore) -> Any:
    step = networks.generate(discriminator)
    return counted(plan(step[:4], store), "h100").steps[step.fingerprint]


def test_operations_and_parameters_are_those_of_one_pass_through_the_features(networks):
    store = MemoryStore("costs")
    none, one, two, three = (
        counts(networks, members, store)
        for members in (
            (networks.alone,),
            networks.a,
            (networks.a, networks.b),
            (networks.a, networks.b, networks.c),
        )
    )
    head = two.flops - one.flops
    assert three.flops - two.flops == pytest.approx(head) and 0 < head < none.flops
    parameters = sum(
        value.numel() for value in networks.b.step.trained_part(networks.b.step.fresh()).parameters()
    )
    assert two.parameters - one.parameters == parameters == three.parameters - two.parameters


def test_a_pilot_times_the_heads_too(networks, monkeypatch):
    monkeypatch.setattr("dgflow.estimate.estimates.BATCH_SECONDS", 0.0)
    told: list[str] = []
    step = networks.generate((networks.a, networks.b))
    costs = piloted(plan(step[:4], MemoryStore("pilot")), told.append)
    assert sorted(line.split(" of ")[0] for line in told if "head" in line) == [
        "pilot: gradient",
        "pilot: head-gradient",
    ]  # in the order of the networks' fingerprints, which depend on the folder
    assert costs.steps[step.fingerprint].seconds > 0


def test_titles_and_inputs_name_the_members(networks):
    several = networks.generate((networks.a, networks.b))
    assert several.title == "generate seed 0, guided by 2 discriminators"
    assert networks.generate((networks.a,)).title == networks.generate(networks.a).title
    assert list(several.inputs()) == ["score", "guidance.0.discriminator.0", "guidance.0.discriminator.1"]
    assert list(networks.generate(networks.a).inputs()) == ["score", "guidance.0.discriminator"]


def test_the_default_combination_is_no_part_of_the_identity_and_the_other_is(networks):
    plain, default, other = (
        networks.generate((networks.a, networks.b), **fields)
        for fields in ({}, {"combine": "logits"}, {"combine": "probabilities"})
    )
    assert plain.fingerprint == default.fingerprint != other.fingerprint
    assert "combine" not in plain.plain_fields()["guidance"][0]


PRESETS = {
    "EDM-G++": lambda classifier, disc, **changes: dg.edm_gpp("cifar10-cond", disc, **changes),
    "ADM-G++": lambda classifier, disc, **changes: dg.adm_gpp("3.18", classifier, disc, **changes),
    "DiT-G++": lambda classifier, disc, **changes: dg.dit_gpp(disc, **changes),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_take_several_discriminators_with_the_settings_of_one(networks, preset):
    build = PRESETS[preset]
    one = build(networks.classifiers[0], networks.a)[-1]
    several = build(networks.classifiers[0], (networks.a, networks.b), combine="probabilities")[-1]
    members = {"discriminator": (networks.a, networks.b), "combine": "probabilities"}
    assert dict(several) == dict(one) | members


def other_members(networks: Networks) -> dict[str, tuple[Weights, str]]:
    """Yields second members that cannot guide together with `networks.a`, with the error."""

    def unread(**fields: Any) -> Weights:
        return dg.Pretrained(source="net.pt", **{**IMAGES, **fields}).weights()

    cosine = unread(network=HEAD.model_copy(update={"time": "cosine-vp"}))
    return {
        "time": (
            unread(network=dg.Discriminator(head=HEAD, features=cosine)),
            "the time of guidance.0.discriminator.0, linear-vp, found one that is given cosine-vp",
        ),
        "size": (
            unread(network=dg.Discriminator(head=HEAD), image_size=16),
            "3 channels of 8 pixels per side, found one for 3 of 16",
        ),
        "channels": (
            unread(network=dg.Discriminator(head=HEAD), channels=1),
            "3 channels of 8 pixels per side, found one for 1 of 8",
        ),
        "fewer classes": (unread(network=dg.Discriminator(head=HEAD), num_classes=2), "knows the 3 classes"),
        "more classes": (
            unread(network=dg.Discriminator(head=HEAD), num_classes=4),
            "of the 3 classes of guidance.0.discriminator.0 .*found one of 4",
        ),
        "no classes": (
            unread(network=dg.Discriminator(head=HEAD), num_classes=0),
            "3 classes .*found one of 0",
        ),
        "kind": (networks.classifiers[0], "expected a TrainDiscriminator or a Pretrained Discriminator"),
        "same": (networks.a, "found the weights of guidance.0.discriminator.0 again"),
    }


@pytest.mark.parametrize(
    "what", ["time", "size", "channels", "fewer classes", "more classes", "no classes", "kind", "same"]
)
def test_members_that_cannot_guide_together_are_refused_by_their_path(networks, what):
    member, says = other_members(networks)[what]
    with pytest.raises(ValueError, match=rf"guidance\.0\.discriminator\.1: .*{says}"):
        networks.generate((networks.a, member))


def test_no_discriminator_and_a_combination_of_one_are_refused(networks):
    with pytest.raises(ValueError, match="expected one discriminator or more, found an empty tuple"):
        dg.DiscriminatorGuidance(discriminator=())
    with pytest.raises(ValueError, match="several discriminators.*'probabilities', found one"):
        dg.DiscriminatorGuidance(discriminator=networks.a, combine="probabilities")
    with pytest.raises(ValueError, match=r"discriminator\W+1.*\n?.*expected Weights, found a Pretrained"):
        dg.DiscriminatorGuidance(discriminator=(networks.a, networks.b.step))  # type: ignore[arg-type]


def test_the_last_epoch_by_its_number_is_the_same_member(networks):
    real = dg.ImportImages(source="/nowhere", **IMAGES)[:100]
    disc = dg.TrainDiscriminator(real=real, fake=dg.Generate(score=networks.score)[:100], epochs=7)
    guided = networks.generate((disc.last(), disc.epoch(6), disc.best()))
    assert len(guided.inputs()) == 4
    with pytest.raises(ValueError, match=r"guidance\.0\.discriminator\.2: expected members that differ"):
        networks.generate((disc.last(), disc.epoch(6), disc.epoch(7)))
