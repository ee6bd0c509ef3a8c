"""Evaluations as one compiled graph: the eager numbers, a graph for each kind, and no wait for the device."""

import os
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from dgflow.diffusion import noise
from dgflow.diffusion.correction_settings import NetworkSettings, ScalingSettings
from dgflow.diffusion.corrections import NetworkCorrection, NoiseScaling
from dgflow.diffusion.ddpm import ddpm
from dgflow.diffusion.denoisers import epsilon_only
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.evaluation import Guides
from dgflow.diffusion.guidance import Guide
from dgflow.diffusion.guidance_settings import Boost, DiscriminatorSettings
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.one_graph import OneGraph
from dgflow.diffusion.recorder import FRAMES, Recorder
from dgflow.diffusion.samplers import Sample
from dgflow.diffusion.score_model import ScoreModel

torch.manual_seed(0)
SCORE = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1))
FEATURES = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(64, 1))
for network in (SCORE, FEATURES):
    network.requires_grad_(False)
ON = {"cpu": (SCORE, FEATURES), "meta": tuple(deepcopy(each).to("meta") for each in (SCORE, FEATURES))}

WHOLE = DiscriminatorSettings(tau_min=0.0)
BOOSTED = DiscriminatorSettings(boost=Boost(weight=2.0, S_churn=3.0))


def denoise(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    s = sigma.float().view(-1, 1, 1, 1)
    return (x.float() + s * ON[x.device.type][0](x.float() / (1 + s**2).sqrt())) / (1 + s**2)


def log_ratio(y: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
    return ON[y.device.type][1](y + time.view(-1, 1, 1, 1))[:, 0]


predict = epsilon_only(lambda y, time, labels: ON[y.device.type][0](y + time.view(-1, 1, 1, 1) / 1000))


def draws(rows: int, device: str = "cpu") -> Any:
    index = torch.arange(rows, device=device)
    return lambda step: noise.standard_normal(0, index, (1, 4, 4), step=step, draw=noise.CHURN)


def by_heun(guidance: Sequence[Guide], churn: float = 0.0, rows: int = 4, device: str = "cpu") -> Sample:
    normals = draws(rows, device)
    return heun(denoise, normals(99), edm_sigmas(18), guidance=guidance, S_churn=churn, churn_noise=normals)


def by_ddpm(guidance: Sequence[Guide], rows: int = 4, device: str = "cpu", steps: int = 25) -> Sample:
    normals, schedule = draws(rows, device), DiscreteSchedule.of(respacing=str(steps))
    return ddpm(predict, normals(99), schedule, guidance=guidance, noise=normals)


def assert_equal(found: Sample, expected: Sample) -> None:
    torch.testing.assert_close(found.x, expected.x, rtol=1e-5, atol=1e-5)
    assert found.log_ratio is not None and expected.log_ratio is not None
    torch.testing.assert_close(found.log_ratio, expected.log_ratio, rtol=1e-5, atol=1e-5)
    assert found.counts(1).tolist() == expected.counts(1).tolist()


@pytest.fixture(autouse=True)
def _fresh_counters():
    counters.clear()


def test_heun_s_18_steps_are_two_graphs_one_guided_and_one_not_with_and_without_churn():
    guides = Guides([DiscriminatorTerm(log_ratio, BOOSTED)], OneGraph("aot_eager"))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for churn in (0.0, 4.0):
            assert_equal(by_heun(guides, churn), by_heun(list(guides), churn))
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


def test_ddpm_s_25_guided_steps_are_one_graph_also_of_a_smaller_last_batch():
    guides = Guides([DiscriminatorTerm(log_ratio, WHOLE)], OneGraph("aot_eager"))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in (4, 3):
            assert_equal(by_ddpm(guides, rows), by_ddpm(list(guides), rows))
        recorder = Recorder(guides)  # from outside the graph
        assert torch.equal(by_ddpm(recorder.guides).x, by_ddpm(guides).x)
        found = recorder.estimates()
        assert found is not None and len(found[0]) == FRAMES
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.slow  # a graph for each way in which two ranges overlap
def test_corrections_act_within_their_range_as_they_do_eagerly():
    other = ScoreModel(lambda x, sigma, labels: 0.9 * denoise(x, sigma, labels), sigma_range=(0.001, 100.0))
    entries: list[Guide] = [
        NetworkCorrection(other, NetworkSettings(weight=1.5, sigma_min=0.1, sigma_max=5.0)),
        NoiseScaling(ScalingSettings(factor=1.01)),
        DiscriminatorTerm(log_ratio, BOOSTED),
    ]
    one_graph = OneGraph("eager")
    found, expected = by_heun(Guides(entries, one_graph)), by_heun(entries)
    torch.testing.assert_close(found.x, expected.x, rtol=1e-6, atol=1e-6)
    assert found.guide_nfe == expected.guide_nfe


@pytest.mark.parametrize("sample", [by_heun, partial(by_ddpm, steps=4)], ids=["Heun", "DDPM"])
def test_no_step_reads_a_number_of_the_device(sample):
    # Tensors of the meta device have no values: reading one fails.
    guidance = [DiscriminatorTerm(log_ratio, BOOSTED)]
    assert sample(guidance, device="meta").x.is_meta
    assert sample(Recorder(guidance).guides, device="meta").x.is_meta
    with pytest.raises(RuntimeError, match="meta"):
        sample([waiting], device="meta")


def waiting(point: Any) -> tuple[Tensor | None, Tensor | None]:
    """A term that waits for the device."""
    return (point.x if float(point.x.sum()) > 0 else -point.x), None


def test_a_network_that_waits_for_the_device_is_refused_where_it_is_compiled():
    with pytest.raises(ValueError, match="copy no value from the device to the host.*omit compile"):
        by_ddpm(Guides([waiting], OneGraph("eager")))


@pytest.mark.slow  # minutes of C++ compiler without a cache
def test_the_compiler_s_own_code_gives_the_eager_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    # Cached code is for the instructions that torch used when it was compiled.
    kind = f"{os.getuid()}-{torch.backends.cpu.get_cpu_capability()}"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor-{kind}")
    guides = Guides([DiscriminatorTerm(log_ratio, BOOSTED)], OneGraph())
    assert_equal(by_heun(guides, 4.0), by_heun(list(guides), 4.0))
