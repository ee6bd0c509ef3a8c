"""Inputs of the measuring steps without a network: rows committed as the previous steps would commit them,
and a pool without Ray."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from inprocess import complete

from dgflow import Generate, Heun, Pretrained, SongUNet
from dgflow.engine.execute import result_of
from dgflow.engine.plan import step_plan
from dgflow.engine.root import Root
from dgflow.metrics.result import MetricResult
from dgflow.networks.inception.spec import InceptionV3
from dgflow.specs.bound import Bound, BoundRows
from dgflow.specs.graph import graph
from dgflow.specs.step import SampleStep, Slice, Spread, Step, Weights
from dgflow.steps.judging.features import Features
from dgflow.steps.judging.measure import Measure
from dgflow.steps.sources.image_set import ImageSet
from dgflow.store.identity import sha256_hex
from dgflow.store.objects import ObjectStore
from dgflow.store.shards import Columns
from dgflow.store.step_store import StepStore

COMMITTED: dict[str, Any] = {"seconds": 0.0, "device": "cpu", "versions": {}}
INCEPTION = Pretrained(
    source="/inception.safetensors", network=InceptionV3(), image_size=299, num_classes=1008
).weights()
SCORE = Pretrained(source="/score.safetensors", network=SongUNet(), image_size=2, num_classes=10).weights()


def rows_of(seed: int, count: int, width: int = 6, classes: int = 10) -> Columns:
    """Returns columns of `Features`: features with long tails, non-negative as Inception's; unequal logits;
    images that all differ."""
    random = np.random.default_rng(seed)
    return {
        "label": random.permutation(count) % classes,
        "features": random.gamma(0.5, 0.8, (count, width)).astype(np.float32),
        "spatial": random.gamma(0.5, 0.8 + 0.1 * seed, (count, max(width // 2, 1))).astype(np.float32),
        "logits": 3 * random.standard_normal((count, classes), dtype=np.float32),
        "constant": np.zeros(count, bool),
        "pixels": random.integers(-(2**63), 2**63, count),
    }


def bound_rows(store: ObjectStore, name: str, columns: Columns, shard_size: int) -> BoundRows:
    """Returns these rows as a sealed slice of a step called `name`."""
    steps = StepStore(store, "features", sha256_hex(f"{name} {shard_size}".encode()))
    return _sealed(
        steps, Slice.model_construct(start=0, stop=len(columns["features"])), shard_size, columns, {}
    )


def bound(store: ObjectStore, shard_size: int, **populations: Columns) -> Bound:
    """Returns the inputs of a measuring step, from rows in memory."""
    return Bound(
        {name: bound_rows(store, name, columns, shard_size) for name, columns in populations.items()}
    )


def image_set(name: str, rows: int, **origin: Any) -> ImageSet:
    """Returns images that are never opened, since their features are there."""
    return ImageSet(source=name, digest=sha256_hex(name.encode()), rows=rows, **origin)


def generated(store: ObjectStore, start: int, stop: int, seed: int = 0, **fields: Any) -> Slice:
    """Commits a slice of samples, black images of 2 x 2 pixels."""
    step = Generate(score=SCORE, sampler=Heun(steps=2), seed=seed, **fields)
    count = stop - start
    commit(
        store,
        step[start:stop],
        {"label": np.arange(count) % 10, "image": np.zeros((count, 2, 2, 3), np.uint8)},
    )
    return step[start:stop]


def judged(
    store: ObjectStore,
    part: Slice | ImageSet,
    columns: Columns,
    *,
    front_end: Any = "adm",
    network: Weights = INCEPTION,
) -> None:
    """Commits `columns` as the features of `part`, where `Measure` finds them."""
    step = Features(samples=part, network=network, front_end=front_end)
    commit(store, step[: part.rows], columns)


def commit(store: ObjectStore, part: Slice, columns: Columns) -> None:
    """Commits `columns` as the rows of a slice that starts at a shard. Weights behind it are given a digest;
    samples must exist."""
    step, root, known = part.step, Root(store), {}
    assert isinstance(step, SampleStep)
    for node in graph(step):
        state = step_plan(root, node, known)
        if isinstance(node.step, Pretrained) and not state.complete:
            _given(root.step_store(node.step), node.step)
            step_plan(root, node, known)
    assert state.bound is not None
    steps = root.step_store(step)
    steps.declare(step.document())
    _sealed(steps, part, step.shard_size, columns, state.bound.digests)


def _given(steps: StepStore, step: Step) -> None:
    steps.declare(step.document())
    data = step.fingerprint.encode()
    steps.commit(
        "results", 0, data, suffix=".safetensors", rows_sha256=sha256_hex(data), inputs={}, **COMMITTED
    )


def _sealed(
    steps: StepStore, part: Slice, shard_size: int, columns: Columns, inputs: dict[str, str]
) -> BoundRows:
    assert part.start % shard_size == 0
    for start in range(part.start, part.stop, shard_size):
        stop = min(start + shard_size, part.stop)
        rows = {name: values[start - part.start : stop - part.start] for name, values in columns.items()}
        index = {"index": np.arange(start, stop)}
        steps.write_shard(
            start // shard_size, index | rows, start=start, stop=stop, inputs=inputs, **COMMITTED
        )
    done = steps.done("shards", inputs)
    keys = [done[number] for number in range(part.start // shard_size, -(-part.stop // shard_size))]
    return BoundRows(steps, steps.seal(part.start, part.stop, inputs, keys), part.start, part.stop)


def measured(store: ObjectStore, samples: Any, **fields: Any) -> MetricResult:
    """Returns the result of `Measure`, by default with the protocol `adm` and Inception."""
    target = Measure(samples=samples, **({"features": INCEPTION, "protocol": "adm"} | fields))
    complete(target, store)
    return MetricResult.model_validate_json(result_of(target, store))


def scattered(seed: int, workers: int) -> Spread:
    """Runs workers in any order and returns results in another. Everything is transferred as with Ray:
    pickled, and arrays are read-only."""

    def spread(
        make: Callable[[], Callable[[Any], Any]], items: Sequence[Any], take: Callable[[Any, Any], None]
    ) -> None:
        random = np.random.default_rng(seed)
        works = [_sent(make)() for _ in range(workers)]
        results = [
            (items[place], _sent(works[random.integers(workers)](_sent(items[place]))))
            for place in random.permutation(len(items))
        ]
        for place in random.permutation(len(results)):
            take(*results[place])

    return spread


def _sent(value: Any) -> Any:
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[buffer.raw().tobytes() for buffer in buffers])
