"""`plan` with a recipe's costs: the table, the JSON and the command line, without data or weights."""

import json
import subprocess
import sys

import pytest
from report.fake_root import fill, new_store, recipe, row_of

import dgflow as dg
from dgflow.cli.guard import guarded
from dgflow.cli.recipe import application
from dgflow.engine.plan import plan
from dgflow.estimate.estimates import Costs, Estimate
from dgflow.report.plan_text import plan_json, plan_table

PIXELS = 16 + 3 * 32**2  # of a CIFAR image, with index and label


def cifar(samples: int = 50_000, fakes: int = 20_000) -> dg.Evaluate:
    """EDM-G++ on CIFAR-10."""
    score, real = (
        dg.official("edm-cifar10-32x32-uncond-vp"),
        dg.ImportImages(source="/nowhere", num_classes=10, image_size=32),
    )
    fake = dg.Generate(score=score, seed=1)[:fakes]
    disc = dg.TrainDiscriminator(
        real=real[:50_000],
        fake=fake,
        features=dg.official("dg-cifar10-classifier"),
        conditional=False,
        epochs=60,
    )
    guided = dg.Generate(score=score, guidance=dg.edm_gpp("cifar10-uncond", disc.last()))
    arms = {"EDM": (dg.Generate(score=score)[:samples],), "EDM-G++": (guided[:samples],)}
    return dg.Evaluate(
        arms=arms, reference=real[:50_000], features=dg.official("inception-2015-12-05"), protocol="edm"
    )


def call(*arguments: object, workflow=cifar) -> int:
    return guarded(lambda: application(workflow, "cifar")(args=[*map(str, arguments)], standalone_mode=False))


def made_up(plans, seconds: float = 7200.0, **more) -> Costs:
    return Costs(
        "h100", "as assumed", {plans[-1].step.fingerprint: Estimate(1_500_000, seconds, 1e15, None)}, **more
    )


def test_money_is_hours_times_the_price():
    plans = plan(cifar(), new_store())
    found = plan_json(plans, None, made_up(plans, price=2.5))
    assert (found["steps"][-1]["device_hours"], found["steps"][-1]["money"], found["total"]["money"]) == (
        2.0,
        5.0,
        5.0,
    )
    last = next(
        line
        for line in plan_table(plans, new_store(), made_up(plans, price=2.5)).splitlines()
        if "  evaluate " in line
    )
    assert last.split()[-4:] == ["1.5", "M", "2.00", "5.00"]


def test_without_a_price_there_is_no_money():
    plans = plan(cifar(), new_store())
    found = plan_json(plans, None, made_up(plans))
    assert "money" not in found["total"]
    assert "cost" not in plan_table(plans, new_store(), made_up(plans)).splitlines()[0]


def test_a_recipe_of_published_networks_is_costed_with_nothing_there(tmp_path, capsys):
    assert (
        call(
            "plan",
            "--root",
            tmp_path / "root",
            "--device",
            "H100",
            "--utilisation",
            0.7,
            "--price",
            2.5,
            "--json",
        )
        == 0
    )
    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert max(map(len, table)) <= 160
    assert found["costs"]["device"] == "h100"
    assert "70% (--utilisation) of its peak, 67 TFLOP/s in float32, 494.7 in TF32" in " ".join(table)
    guided, plain = (
        row_of(found["steps"], title)
        for title in ("generate seed 0, guided by discriminator", "generate seed 0")
    )
    # One evaluation of the score network is 42.4 GFLOP, of the discriminator with its gradient 28.4; it acts
    # in 15 of 18 steps.
    assert plain["flops"] == pytest.approx(50_000 * 35 * 42.38e9, rel=0.001)
    assert guided["flops"] - plain["flops"] == pytest.approx(50_000 * 15 * 28.4e9, rel=0.001)
    assert guided["parameters"] == pytest.approx(55.7e6 + 50.7e6, rel=0.001)
    assert found["total"]["money"] == pytest.approx(2.5 * found["total"]["device_hours"])
    assert (plain["bytes"], plain["bytes_from"]) == (round(1.001 * 50_000 * PIXELS) + 100 * 4096, "fields")


def test_only_what_is_missing_is_to_be_done(tmp_path):
    target, store = recipe(source=str(tmp_path / "digits.npz")), new_store()
    fill(target, store, leave_out=[("generate seed 102, guided by discriminator", 1)])
    missing = {made.step.title: made.work for made in plan(target, store) if made.work}
    whole = {made.step.title: made.work for made in plan(target, new_store())}
    sampling, features = (
        "generate seed 102, guided by discriminator",
        "features of generate seed 102, guided by discriminator [0:200]",
    )
    assert list(missing) == [sampling, features]
    assert [work.times * 2 for work in missing[sampling]] == [
        work.times for work in whole[sampling]
    ]  # one of two shards


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--device", "h1000"), 1, "expected a device of b200, h200, h100"),
        (("--device", "h100", "--pilot"), 2, "found both"),
        (("--price", "2"), 2, "expected --device NAME or --pilot with --price"),
        (("--utilisation", "0.5"), 2, "expected --device NAME with --utilisation"),
        (
            ("--device", "h100", "--utilisation", "1.5"),
            1,
            "expected a utilisation above 0 and at most 1, found 1.5",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(options, status, message, tmp_path, capsys):
    assert call("plan", "--root", tmp_path / "root", *options) == status
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_plain_plan_names_the_options_and_loads_no_torch(tmp_path):
    program = (
        "import sys; sys.path.insert(0, 'tests'); from report import test_plan_costs as own;own.call('plan', "
        f"'--root', {str(tmp_path / 'root')!r}); print({{'torch', 'ray'}} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert found[-1] == "set()"
    assert "--device NAME" in found[-2]
    assert "--pilot" in found[-2]
