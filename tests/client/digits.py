"""`workflows/digits.py` at the size of a test: 16 x 16 images of ten classes, networks of a few thousand
parameters."""

from pathlib import Path

import numpy as np

import dgflow as dg

ENCODER = dg.ADMEncoder(model_channels=32, num_res_blocks=1, attention_resolutions=(), num_head_channels=32)
HEUN = dg.Heun(steps=3, sigma_min=0.05, sigma_max=2)  # images with all greys, although little was learned
UNET = dg.SongUNet(model_channels=8, channel_mult=(1, 1), num_blocks=1, attn_resolutions=(), dropout=0.0)


def write_images(path: Path, count: int = 160) -> None:
    """Bars at ten places on noise."""
    random = np.random.default_rng(0)
    label = np.arange(count) % 10
    image = random.integers(0, 60, (count, 16, 16, 1))
    for number, place in enumerate(label):
        image[number, :, place + 2 : place + 5] += 180
    np.savez(path, image=image.astype(np.uint8), label=label)


def workflow(samples: int = 128, seeds: list[int] | None = None) -> dg.Evaluate:
    """Guided and unguided bars."""
    images = dg.ImportImages(source="images.npz", num_classes=10, image_size=16, channels=1, shard_size=40)
    real = images[:120]
    judge = dg.TrainClassifier(
        real=images[:40], network=ENCODER.model_copy(update={"pool": "adaptive"}), epochs=1, batch_size=40
    )
    score = dg.TrainScore(real=real, network=UNET, epochs=2, batch_size=20, ema_halflife=64).last()
    fake = dg.Generate(score=score, sampler=HEUN, seed=1, shard_size=60)[:60]
    discriminator = dg.TrainDiscriminator(
        real=images[:60], fake=fake, network=ENCODER, epochs=2, batch_size=20, held_out=0.25
    ).best()
    guide = dg.DiscriminatorGuidance(discriminator=discriminator, weight=2.0, second_order_weight=2.0)

    def generate(*guidance: dg.DiscriminatorGuidance) -> tuple:
        step = dg.Generate(score=score, sampler=HEUN, guidance=guidance, seed=101, shard_size=64)
        other = step.model_copy(update={"seed": 102})
        return step[:samples], other[:samples]

    arms = {"unguided": generate(), "guided": generate(guide)}
    return dg.Evaluate(arms=arms, reference=images[120:160], features=judge.last())
