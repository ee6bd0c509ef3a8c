"""diffusers' pipelines under guidance: the numbers of dgflow's samplers, and otherwise what they were."""

import json
from typing import Any

import pytest
import torch
from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from pipelines import toys
from pipelines.toys import SCHEDULE, STEPS
from torch import Tensor

from dgflow.diffusers import (
    DiscriminatorGuidedDDIMPipeline,
    DiscriminatorGuidedDDPMPipeline,
    DiscriminatorGuidedDiTPipeline,
)
from dgflow.diffusion.classifier_free import ClassifierFreePredictor
from dgflow.diffusion.ddpm import ddim, ddpm
from dgflow.diffusion.denoisers import epsilon_only, learned_range
from dgflow.diffusion.guidance_settings import ClassifierFree

LABELS = [3, 1, 4]
FLOAT32: dict[str, Any] = {"rtol": 0.0, "atol": 1e-5}
"""diffusers keeps state and coefficients in float32, dgflow in float64."""


def guided(plain: Any) -> Any:
    kinds = {
        DDPMPipeline: DiscriminatorGuidedDDPMPipeline,
        DDIMPipeline: DiscriminatorGuidedDDIMPipeline,
        DiTPipeline: DiscriminatorGuidedDiTPipeline,
    }
    return toys.quiet(kinds[type(plain)].from_pipe(plain))


def images(pipeline: Any, count: int = 3, **options: Any) -> Tensor:
    """[count, C, H, W] in [0, 1], from the same noise for the same sample."""
    own = {"class_labels": LABELS[:count]} if hasattr(pipeline, "transformer") else {"batch_size": count}
    options = {"num_inference_steps": STEPS, "output_type": "pt", **own, **options}
    return pipeline(generator=toys.generators(count), **options).images


def as_images(x: Tensor) -> Tensor:
    return (x.float() / 2 + 0.5).clamp(0, 1)


def of_unet(unet: Any) -> Any:
    return epsilon_only(lambda y, time, labels: unet(y, time).sample)


@pytest.mark.parametrize("clip", [True, False])
def test_ddpm_gives_the_images_of_dgflows_ddpm(clip):
    pipeline, term = guided(toys.ddpm_pipeline(clip_sample=clip)), toys.term(3)
    latents, *noise = toys.normals((3, 3, 4, 4), STEPS)
    own = ddpm(
        of_unet(pipeline.unet),
        latents,
        SCHEDULE,
        noise=lambda step: noise[step],
        guidance=[term],
        clip_denoised=clip,
    )
    found = images(pipeline, guidance=[term])
    torch.testing.assert_close(found, as_images(own.x), **FLOAT32)
    assert (found - images(pipeline)).abs().max() > 0.01


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_gives_the_images_of_dgflows_ddim(eta):
    pipeline, term = guided(toys.ddim_pipeline(clip_sample=False)), toys.term(3)
    latents, *noise = toys.normals((3, 3, 4, 4), STEPS)
    own = ddim(
        of_unet(pipeline.unet),
        latents,
        SCHEDULE,
        eta=eta,
        noise=lambda step: noise[step],
        guidance=[term],
        clip_denoised=False,
    )
    found = images(pipeline, guidance=[term], eta=eta)
    torch.testing.assert_close(found, as_images(own.x), **FLOAT32)
    assert (found - images(pipeline, eta=eta)).abs().max() > 0.01


@pytest.mark.parametrize("scale", [1.0, 4.0])
@torch.no_grad()
def test_dit_gives_the_images_of_dgflows_ddim_with_and_without_classifier_free_guidance(scale):
    pipeline, term = guided(toys.dit_pipeline()), toys.term(4, classes=toys.CLASSES)
    network: Any = lambda y, time, labels: pipeline.transformer(y, time, class_labels=labels).sample  # noqa: E731
    predictor = learned_range(network)
    if scale > 1.0:
        predictor = ClassifierFreePredictor(
            predictor, toys.CLASSES, ClassifierFree(scale=scale, channels=None)
        )
    latents, *_ = toys.normals((3, 4, 4, 4), 0)
    own = ddim(
        predictor, latents, SCHEDULE, class_labels=torch.tensor(LABELS), guidance=[term], clip_denoised=False
    )
    decoded = pipeline.vae.decode(own.x.float() / pipeline.vae.config.scaling_factor).sample
    found = images(pipeline, guidance=[term], guidance_scale=scale)
    torch.testing.assert_close(found, as_images(decoded), rtol=0, atol=1e-4)  # latents times 5.5, decoded
    assert (found - images(pipeline, guidance_scale=scale)).abs().max() > 0.01


PLAIN = pytest.mark.parametrize(
    ("make", "channels"),
    [(toys.ddpm_pipeline, 3), (toys.ddim_pipeline, 3), (toys.dit_pipeline, 4)],
    ids=["ddpm", "ddim", "dit"],
)


@PLAIN
def test_a_weight_of_0_leaves_every_bit(make, channels):
    term = toys.term(channels, weight=0.0)
    assert torch.equal(images(guided(make()), guidance=[term]), images(make()))


@PLAIN
def test_a_sample_is_the_same_in_a_batch_of_one(make, channels):
    pipeline, term = guided(make()), toys.term(channels)
    torch.testing.assert_close(
        images(pipeline, 1, guidance=[term]), images(pipeline, guidance=[term])[:1], **FLOAT32
    )


@PLAIN
def test_it_is_saved_as_diffusers_own_pipeline_and_loaded_as_either(make, channels, tmp_path):
    plain, term = make(), toys.term(channels)
    pipeline = guided(plain)
    pipeline.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == type(plain).__name__
    again = toys.quiet(DiffusionPipeline.from_pretrained(tmp_path))
    assert type(again) is type(plain) and torch.equal(images(again), images(plain))
    again = toys.quiet(type(pipeline).from_pretrained(tmp_path))
    assert torch.equal(images(again, guidance=[term]), images(pipeline, guidance=[term]))


def test_networks_in_half_precision_are_guided_in_float32():
    pipeline = toys.ddim_pipeline(clip_sample=False).to(torch.float16)
    pipeline, term = guided(pipeline), toys.term(3)
    assert pipeline.dtype == torch.float16
    whole = images(guided(toys.ddim_pipeline(clip_sample=False)), guidance=[term])
    found = images(pipeline, guidance=[term])
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), whole, rtol=0, atol=0.005)


def test_networks_of_several_dtypes_stay_as_they_are(tmp_path):
    plain = toys.dit_pipeline()
    plain.transformer.to(torch.float16)
    pipeline = guided(plain)
    pipeline.save_pretrained(tmp_path)
    dtypes = {"transformer": torch.float16, "vae": torch.float32}
    assert {name: getattr(pipeline, name).dtype for name in dtypes} == dtypes
    assert pipeline.vae is plain.vae
    other = toys.dit_pipeline().vae
    assert type(pipeline).from_pipe(plain, vae=other).vae is other


def test_the_names_of_classes_are_kept():
    plain = toys.dit_pipeline()
    plain.labels = {"cat": 3}
    assert guided(plain).get_label_ids(["cat"]) == [3]


def test_a_scheduler_whose_first_noise_the_pipeline_does_not_scale_is_refused():
    pipeline = guided(toys.dit_pipeline())
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    with pytest.raises(ValueError, match="found EulerDiscreteScheduler: DiTPipeline never scales"):
        images(pipeline, guidance=[toys.term(4)])
