"""Rejection along the path against DiffRS (Na et al. 2024), with closed forms in the place of networks: its
thresholds, and chains whose uniforms and normals are the case's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from parity.goldens import Case, cases, close, load
from parity.toys import ToyLogit, ToyMixture
from torch import Tensor

from dgflow.diffusion import noise, times
from dgflow.diffusion.discriminator_guidance import log_ratio_at
from dgflow.diffusion.heun import HeunPath, edm_sigmas
from dgflow.diffusion.selection.chains import Chains
from dgflow.diffusion.selection.rejection import Rule
from dgflow.diffusion.selection.run import Draw, LogRatioAt, Run, Selected
from dgflow.diffusion.selection.thresholds import Thresholds, log_ratios_along


def _of_diffrs(case: Case, array: str) -> bool:
    return "DiffRS" in case.reference and array in case.entry["arrays"]


def is_warm_up(case: Case) -> bool:
    return _of_diffrs(case, "out_dl")


def is_chain(case: Case) -> bool:
    return _of_diffrs(case, "out_check_l")


CLAIMS = [is_warm_up, is_chain]

CPU = torch.device("cpu")


def path_of(options: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> HeunPath:
    churn = {name: value for name, value in options.items() if name.startswith("S_")}
    return HeunPath.of(ToyMixture.of(arrays), edm_sigmas(options["num_steps"]), CPU, **churn)


def log_ratio_of(config: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> LogRatioAt:
    cosine = config["net.img_resolution"] == 64
    time, logit = times.cosine_from_sigma if cosine else times.tau_from_sigma, ToyLogit.of(arrays)

    def at(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return log_ratio_at(logit, x, sigma, labels, time=time).double()

    return at


@pytest.mark.parametrize("case", cases(is_warm_up, "workbench"))
def test_thresholds_are_those_of_the_warm_up(case: Case) -> None:
    config, arrays, _ = load(case)
    options = config["sampler"]
    path, log_ratio = path_of(options, arrays), log_ratio_of(config, arrays)
    size, labels = len(arrays["in_latents"]), arrays.get("in_labels")
    latents = torch.cat([arrays["in_latents"], arrays["in_refill"][:-size]])
    if labels is not None:
        refilled = torch.nn.functional.one_hot(arrays["in_refill_labels"][:-size], labels.shape[1])
        labels = torch.cat([labels, refilled.to(labels)])
    found = log_ratios_along(path, Draw(latents, torch.zeros(len(latents)), labels, none), log_ratio)
    recorded = as_recorded(found, size)
    tables = tables_of(options, recorded, found)
    changes = found.diff(dim=1, prepend=found[:, :1])
    expected = {"l": recorded.T, "dl": changes.T}
    expected |= {"adaptive": torch.tensor(tables.again), "adaptive2": torch.tensor(tables.first)}
    for name, value in expected.items():
        close(case, name, value, arrays[f"out_{name}"], atol=2e-5)


def as_recorded(log_ratios: Tensor, size: int) -> Tensor:
    """The log-ratios [samples, positions] that the original keeps, in batches of `size`: at the end that of
    the latents of the next batch, which have taken the samples' places by then. Its changes are those of the
    samples, and no chain is compared with the other threshold there."""
    recorded = log_ratios.clone()
    recorded[:-size, -1] = log_ratios[size:, 0]
    return recorded


def tables_of(options: Mapping[str, Any], recorded: Tensor, log_ratios: Tensor) -> Thresholds:
    again, first = (
        Thresholds.of(values.numpy(), options["rej_percentile"], floor=not options.get("no_zero", False))
        for values in (recorded, log_ratios)
    )
    return Thresholds(again.again, first.first)


def none(number: Any) -> Any:
    raise AssertionError("expected no other draws than the case's")


@dataclass(frozen=True)
class Supplied(Run):
    """A run whose uniforms and normals are a case's, and what was drawn and looked at of its samples."""

    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    churned: list[list[int]] = field(default_factory=list)

    def uniforms(self, index_B: Tensor, *, step: Any, draw: int, shape: tuple[int, ...] = ()) -> Tensor:
        u = self.arrays["in_u"]
        return u[index_B, step.clamp_max(u.shape[1] - 1)].double()  # drawn also where nothing is tested

    def normals(self, index_B: Tensor, *, step: Any, draw: int) -> Tensor:
        if draw == noise.REJECTION_NORMAL:
            return self.arrays["in_z"][index_B, step].double()
        places = [self.churned[i][k] for i, k in zip(index_B.tolist(), step.tolist(), strict=True)]
        return self.arrays["in_z_churn"][index_B, places].double()


def rule_of(options: Mapping[str, Any], tables: Thresholds) -> Rule:
    low, high = options.get("min_backsteps", 0), min(options["max_backsteps"], options["num_steps"])
    return Rule(
        tables.first,
        tables.again,
        range(low + 1 if low else 0, high + 1),
        options["backsteps"],
        budget=options["max_iter"],
    )


@dataclass(frozen=True)
class Chained:
    """The chains of a case, and what they looked at, where there is one at a time: (log-ratio, noise
    level)."""

    options: Mapping[str, Any]
    arrays: Mapping[str, Tensor]
    run: Supplied
    rule: Rule
    looks: list[tuple[float, float]]

    @classmethod
    def of(cls, case: Case) -> Chained:
        config, arrays, _ = load(case)
        options, looks = config["sampler"], list[tuple[float, float]]()
        path, log_ratio = path_of(options, arrays), log_ratio_of(config, arrays)

        def looking(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
            found = log_ratio(x, sigma, labels)
            looks.append((float(found[0]), float(sigma[0])))
            return found

        def draw(index_B: Tensor) -> Draw:
            labels = arrays.get("in_labels")
            asked = None if labels is None else labels[index_B]
            return Draw(arrays["in_latents"][index_B], index_B, asked, none)

        run = Supplied(
            draw=draw,
            sample=none,
            path=path,
            log_ratio=looking,
            entries=0,
            seed=0,
            sides=tuple(arrays["in_latents"].shape[1:]),
            batch_size=len(arrays["in_latents"]),
            device=CPU,
            arrays=arrays,
            churned=churned(options, path, arrays["out_level_after"]),
        )
        return cls(options, arrays, run, rule_of(options, tables_of_case(case)), looks)

    def __call__(self, start: int, stop: int) -> tuple[Chains, Selected]:
        self.looks.clear()
        chains = Chains(self.run, self.rule, range(start, stop))
        return chains, chains.selected()


def tables_of_case(case: Case) -> Thresholds:
    config, arrays, _ = load(case)
    recorded = arrays["in_table_l"].T.double()
    at_end = recorded[:, -2:-1] + arrays["in_table_dl"].T[:, -1:]
    return tables_of(config["sampler"], recorded, torch.cat([recorded[:, :-1], at_end], dim=1))


CHAINS = pytest.mark.parametrize("case", cases(is_chain, "workbench"))


@CHAINS
def test_thresholds_of_chains_are_quantiles_of_the_recorded_log_ratios(case: Case) -> None:
    _, arrays, _ = load(case)
    for name, found in zip(("adaptive", "adaptive2"), tables_of_case(case), strict=True):
        close(case, name, torch.tensor(found), arrays[f"out_{name}"], atol=2e-5)


@CHAINS
def test_every_test_and_move_of_a_chain_is_the_originals(case: Case) -> None:
    chained = Chained.of(case)
    arrays, levels = chained.arrays, chained.run.path.levels if chained.run.path else ()
    count, checks = len(arrays["in_latents"]), torch.full_like(arrays["out_check_l"], torch.nan)
    sigmas, x = torch.full_like(checks, torch.nan), torch.empty_like(arrays["out_x"])
    for index in range(count):
        chains, selected = chained(index, index + 1)
        (chain,) = chains.ended
        tested = [look for look in chained.looks if levels.index(look[1]) in chained.rule.tested]
        for number, (log_ratio, sigma) in enumerate(tested):
            checks[index, number], sigmas[index, number] = log_ratio, sigma
        x[index] = selected.x[0]
        assert len(chained.looks) == selected.discriminator_evaluations[0]
        evaluations = int(selected.score_evaluations[0]) - chain.thrown
        found = (evaluations, chain.uniforms, chain.normals, chain.churned, chain.resets)
        names = ("nfe", "n_u", "n_z", "n_outer", "n_resets")
        assert found == tuple(int(arrays[f"out_{name}"][index]) for name in names)
    close(case, "x", x, arrays["out_x"], of_max=2e-5)
    close(case, "check_l", checks, arrays["out_check_l"], of_max=5e-5)
    close(case, "check_sigma", sigmas, arrays["out_check_sigma"], rtol=1e-12)


@CHAINS
def test_chains_side_by_side_are_those_of_each_alone(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgflow.diffusion.selection.chains.PARTS", 2)
    chained = Chained.of(case)
    count = len(chained.arrays["in_latents"])
    chains, selected = chained(0, count)
    assert chains.width == count // 2 > 1
    close(case, "x", selected.x, chained.arrays["out_x"], of_max=2e-5)
    assert selected.labels.tolist() == list(range(count))
    in_order = sorted(chain.index for chain in chains.ended)
    checks = {chain.index: chain.uniforms for chain in chains.ended}
    assert [checks[index] for index in in_order] == chained.arrays["out_n_u"].tolist()


def churned(options: Mapping[str, Any], path: HeunPath, level_after: Tensor) -> list[list[int]]:
    """The number of the normal for each sample's moves: the original draws one if a move begins in the range
    of churn.
    """
    low, high = options.get("S_min", 0.0), options.get("S_max", float("inf"))
    numbers = []
    for after in level_after.tolist():
        begins = [0, *(position for position in after if position >= 0)]
        inside = [low <= path.levels[position] <= high for position in begins]
        numbers.append([sum(inside[:move]) for move in range(len(inside))])
    return numbers
