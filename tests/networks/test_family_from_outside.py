"""A backbone that dgflow does not know takes part in everything: weights, plans, costs, smoke runs,
guidance."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from inprocess import complete
from networks.toy_family.spec import ToyNetwork

import dgflow as dg
from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.estimate.estimates import counted
from dgflow.specs.bound import Bound
from dgflow.specs.graph import graph
from dgflow.store.memory import MemoryStore
from dgflow.store.open import open_store
from dgflow.testing.smoke import smoke

TESTS = Path(__file__).resolve().parents[1]
CLASSES, SIDE, WIDTH = 3, 32, 24


def score(source: str = "/nowhere/toy.pt") -> dg.Pretrained:
    return dg.Pretrained(
        source=source,
        network=ToyNetwork(width=WIDTH),
        image_size=SIDE,
        num_classes=CLASSES,
        format="toy_checkpoint",
    )


def guided(step: dg.Pretrained) -> dg.Generate:
    """Samples guided by a discriminator that is trained against the step's own."""
    real = dg.ImportImages(source="/nowhere/images", num_classes=CLASSES, image_size=SIDE, num_images=500)
    plain = dg.Generate(score=step.weights(), sampler=dg.Heun(steps=4), seed=1)
    head = dg.ADMEncoder(model_channels=32, num_res_blocks=1, attention_resolutions=(), num_head_channels=32)
    discriminator = dg.TrainDiscriminator(real=real[:400], fake=plain[:400], network=head, epochs=2)
    term = dg.DiscriminatorGuidance(discriminator=discriminator.last())
    return dg.Generate(score=step.weights(), sampler=dg.Heun(steps=4), guidance=(term,), seed=2)


def test_its_weights_are_read_from_its_own_file_and_kept_in_the_root(tmp_path):
    step = score(str(tmp_path / "toy.pt"))
    network = step.build(Bound())
    Path(step.source).write_bytes(step.network.write(step.format, network, step.shape))
    store, generate = open_store(str(tmp_path / "root")), dg.Generate(score=step.weights(), shard_size=2)
    complete(generate[:2].step, store)
    bound = Root(store).bind(generate, {step.fingerprint: Bound()})
    assert bound is not None
    kept = bound.network("score").state_dict()
    assert kept.keys() == network.state_dict().keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in network.state_dict().items())


def test_a_file_of_another_form_is_refused_with_what_was_found(tmp_path):
    step = score(str(tmp_path / "toy.pt"))
    torch.save({"weights": {}}, step.source)
    with pytest.raises(ValueError, match="expected a toy checkpoint"):
        complete(step, MemoryStore("refused"))


def test_its_operations_and_parameters_are_counted():
    step, steps, rows = score(), 4, 400
    plain, other = (
        dg.Generate(score=step.weights(), sampler=dg.Heun(steps=steps), seed=seed) for seed in (1, 2)
    )
    target = dg.TrainDiscriminator(real=plain[:rows], fake=other[:rows], network=dg.ADMEncoder())
    costs = counted(plan(target, MemoryStore("none")), "h100").steps
    convolutions = 2 * 9 * 3 * WIDTH
    parameters = convolutions + WIDTH + 3 + CLASSES * WIDTH
    assert costs[step.fingerprint].parameters == costs[plain.fingerprint].parameters == parameters
    made = -(-rows // plain.shard_size) * plain.shard_size
    assert costs[plain.fingerprint].flops == made * (2 * steps - 1) * 2 * convolutions * SIDE**2


def test_a_smoke_run_writes_its_checkpoint_samples_it_and_guides_it_by_a_discriminator(tmp_path):
    store = open_store(str(tmp_path / "root"))
    made = smoke(guided(score()), str(tmp_path / "root"))
    (toy,) = (node.step for node in graph(made.target) if isinstance(node.step, dg.Pretrained))
    assert toy.network == ToyNetwork(width=4) and toy.format == "toy_checkpoint" and toy.made_up
    made.write(store)
    target = made.target
    assert isinstance(target, dg.Generate)
    bound = complete(target, store)
    rows = target.shard_builder(bound)(0, 6)
    plain = target.model_copy(update={"guidance": ()}).shard_builder(bound)(0, 6)
    assert rows["image"].shape == (6, 16, 16, 3) and set(rows["label"]) <= set(range(CLASSES))
    assert np.isfinite(rows["log_ratio"]).all() and (rows["log_ratio"] != 0).any()
    assert (rows["image"] != plain["image"]).any() and (rows["label"] == plain["label"]).all()


def test_a_recipe_of_it_is_built_and_planned_without_torch():
    program = (
        "import sys; from networks.toy_family.spec import ToyNetwork; import dgflow as dg;"
        "from dgflow.engine.plan import plan; from dgflow.store.memory import MemoryStore;"
        "step = dg.Pretrained(source='/nowhere/toy.pt', network=ToyNetwork(), image_size=32);"
        "assert len(plan(dg.Generate(score=step.weights()), MemoryStore('none'))) == 2;"
        "print(sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=TESTS, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
