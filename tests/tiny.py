"""A recipe small enough to run again and again: two classes of 8 x 8 blobs, networks of a few thousand
parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dgflow import (
    ADMEncoder,
    DiscriminatorGuidance,
    Evaluate,
    Generate,
    Heun,
    ImportImages,
    SongUNet,
    TrainClassifier,
    TrainDiscriminator,
    TrainScore,
)

ENCODER = ADMEncoder(model_channels=32, num_res_blocks=1, attention_resolutions=(), num_head_channels=32)
JUDGE = ENCODER.model_copy(update={"pool": "adaptive"})


def write_images(path: Path, count: int = 96, size: int = 8) -> Path:
    """Bright squares at the upper left (class 0) or lower right (class 1) on noise."""
    random = np.random.default_rng(0)
    label = random.integers(0, 2, count)
    image = random.integers(0, 60, (count, size, size, 1))
    for number, kind in enumerate(label):
        corner = slice(1, 4) if kind == 0 else slice(4, 7)
        image[number, corner, corner] += 180
    np.savez(path, image=image.astype(np.uint8), label=label)
    return path


def real(source: Path) -> ImportImages:
    return ImportImages(source=str(source), num_classes=2, image_size=8, channels=1, shard_size=32)


def score(source: Path, epochs: int = 2) -> TrainScore:
    network = SongUNet(model_channels=8, channel_mult=(1, 1), num_blocks=1, attn_resolutions=(), dropout=0.1)
    return TrainScore(
        real=real(source)[:64], network=network, epochs=epochs, batch_size=16, held_out=0.25, ema_halflife=64
    )


def fakes(source: Path, seed: int = 1, shard_size: int = 8, steps: int = 3) -> Generate:
    return Generate(score=score(source).last(), sampler=Heun(steps=steps), seed=seed, shard_size=shard_size)


def discriminator(source: Path, epochs: int = 2) -> TrainDiscriminator:
    return TrainDiscriminator(
        real=real(source)[:64],
        fake=fakes(source)[:64],
        network=ENCODER,
        epochs=epochs,
        batch_size=16,
        held_out=0.25,
    )


def workflow(
    source: str = "images.npz", samples: int = 32, epochs: int = 2, guidance_weight: float = 1.0
) -> Evaluate:
    """The whole pipeline at toy size."""
    path = Path(source)
    judge = TrainClassifier(real=real(path)[:64], network=JUDGE, epochs=1, batch_size=16)
    guidance = (
        DiscriminatorGuidance(discriminator=discriminator(path, epochs).best(), weight=guidance_weight),
    )
    plain = Generate(score=score(path).last(), sampler=Heun(steps=3), seed=5, shard_size=8)
    guided = Generate(
        score=score(path).last(), sampler=Heun(steps=3), seed=5, shard_size=8, guidance=guidance
    )
    return Evaluate(
        arms={"unguided": (plain[:samples],), "guided": (guided[:samples],)},
        reference=real(path)[64:96],
        features=judge.last(),
        floor=real(path)[32:64],
    )


if __name__ == "__main__":
    from dgflow import main

    main(workflow)
