"""The evaluator compared with torch-fidelity and clean-fid: `python benchmarks/metrics.py
features|trace|neighbours|end-to-end`.

No published weights are needed: both sides get the same random ones, and the outputs are compared before
anything is timed. The sides run in turn, and the minimum of each side's times is reported, since other
programs can only slow a side down.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dgflow.metrics.front_ends import prepare
from dgflow.networks.inception.module import InceptionV3Module, accelerated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from parity import inception_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["features", "trace", "neighbours", "end-to-end"])
    parser.add_argument(
        "--images",
        type=int,
        default=64,
        help="images per round (features), or number of samples (end-to-end)",
    )
    parser.add_argument("--side", type=int, default=32, help="pixels of an image's side")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[5_000, 10_000, 20_000], help="samples (neighbours)"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--protocol", default="adm", choices=["adm", "edm", "clean"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    {"features": features, "trace": trace, "neighbours": neighbours, "end-to-end": end_to_end}[options.what](
        options
    )


def network() -> InceptionV3Module:
    """Returns the network, with random weights that keep its features in the range of real ones."""
    made = InceptionV3Module()
    shapes = {name: tuple(values.shape) for name, values in made.state_dict().items()}
    made.load_state_dict(inception_recipe.weights(0, shapes))
    return made


def random_images(count: int, side: int) -> np.ndarray:
    """Returns blocks of 8 x 8 pixels of one colour, with noise: uint8 [N, H, W, 3]."""
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (count, -(-side // 8), -(-side // 8), 3))
    whole = blocks.repeat(8, axis=1).repeat(8, axis=2)[:, :side, :side]
    return np.clip(whole + random.normal(0, 20, whole.shape), 0, 255).astype(np.uint8)


class Published(nn.Module):
    """The interface that clean-fid's wrapper expects of NVIDIA's file: `layers`, and the whole network on
    uint8-range images."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers


class Layers(nn.Module):
    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.inner = extractor

    def forward(self, x: Tensor) -> Tensor:
        n = self.inner
        x = n.MaxPool_1(n.Conv2d_2b_3x3(n.Conv2d_2a_3x3(n.Conv2d_1a_3x3(x))))  # type: ignore[operator]
        x = n.MaxPool_2(n.Conv2d_4a_3x3(n.Conv2d_3b_1x1(x)))  # type: ignore[operator]
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = getattr(n, f"Mixed_{name}")(x)
        return n.AvgPool(x)  # type: ignore[operator]


def features(options: argparse.Namespace) -> None:
    """Measures images per second from uint8 pixels to 2048 features."""
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    ours = network()
    images = random_images(options.images, options.side)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(ours.state_dict() | _counters(ours), f"{folder}/inception.pth")
        fidelity = FeatureExtractorInceptionV3(
            "inception", ["2048", "logits_unbiased"], f"{folder}/inception.pth"
        )
        traced = torch.jit.trace(Layers(fidelity), torch.zeros(1, 3, 299, 299))
        torch.jit.script(Published(traced)).save(f"{folder}/inception-2015-12-05.pt")  # type: ignore[union-attr]
        clean = InceptionV3W(folder, download=False)
    resize, fast = build_resizer("clean"), accelerated(ours)

    def batches(run: Callable[[np.ndarray], Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.cat([run(images[first : first + 32]) for first in range(0, len(images), 32)])

    @torch.no_grad()
    def of_clean_fid(batch: np.ndarray) -> Tensor:
        resized = np.stack([resize(image) for image in batch])
        return clean(torch.from_numpy(resized).permute(0, 3, 1, 2))

    sides = {
        "torch-fidelity": batches(
            lambda batch: fidelity(torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous())[0]
        ),
        "dgflow adm": batches(lambda batch: fast(prepare(batch, "adm")).pooled),
        "clean-fid": batches(of_clean_fid),
        "dgflow clean": batches(lambda batch: fast(prepare(batch, "clean")).pooled),
    }
    outputs = {name: run() for name, run in sides.items()}
    for theirs, own in (("torch-fidelity", "dgflow adm"), ("clean-fid", "dgflow clean")):
        worst = float((outputs[theirs] - outputs[own]).abs().max() / outputs[theirs].abs().max())
        assert worst < 1e-4, f"{own} differs from {theirs} by {worst:.1e} of the maximum"
        print(f"{own} against {theirs}: largest difference {worst:.1e} of the largest feature")
    least = alternated(sides, options.rounds)
    for name, seconds in least.items():
        print(f"{name:15} {options.images / seconds:7.2f} images/s")
    print(f"ratio to torch-fidelity {least['torch-fidelity'] / least['dgflow adm']:.2f}")
    print(f"ratio to clean-fid      {least['clean-fid'] / least['dgflow clean']:.2f}")


def _counters(made: InceptionV3Module) -> dict[str, Tensor]:
    names = [name.removesuffix("running_mean") for name in made.state_dict() if name.endswith("running_mean")]
    return {f"{name}num_batches_tracked": torch.tensor(0) for name in names}


def trace(options: argparse.Namespace) -> None:
    """Measures the time of the Fréchet distance at 2048 features, against clean-fid's, which uses scipy's
    sqrtm."""
    from cleanfid.fid import frechet_distance as of_clean_fid

    from dgflow.metrics.frechet import Gaussian, frechet_distance

    random = np.random.default_rng(0)
    sides = []
    for _ in range(2):
        rows = random.standard_normal((5_000, 2048)) @ np.diag(random.uniform(0.2, 2.0, 2048))
        sides.append((rows.mean(axis=0), np.cov(rows, rowvar=False)))
    (mean_a, covariance_a), (mean_b, covariance_b) = sides
    a, b = Gaussian(mean_a, covariance_a), Gaussian(mean_b, covariance_b)
    found: dict[str, float] = {}
    least = alternated(
        {
            "clean-fid": lambda: found.update(
                theirs=of_clean_fid(mean_a, covariance_a, mean_b, covariance_b)
            ),
            "dgflow": lambda: found.update(ours=frechet_distance(a, b)),
        },
        options.rounds,
    )
    print(f"relative difference {abs(found['ours'] / found['theirs'] - 1):.1e}")
    for name, seconds in least.items():
        print(f"{name:10} {seconds:7.2f} s")
    print(f"ratio {least['clean-fid'] / least['dgflow']:.1f}")


def neighbours(options: argparse.Namespace) -> None:
    """Measures precision and recall from stored features, against 10,000 reference images: seconds and a
    worker's peak memory, each size in its own process."""
    for rows in options.rows:
        program = (
            "import sys; sys.path.insert(0, 'benchmarks'); import metrics;"
            f"metrics.neighbours_of({rows}, {min(rows, 10_000)}, {options.threads})"
        )
        found = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[1],
        )
        print(found.stdout.strip())


def neighbours_of(samples: int, reference: int, threads: int) -> None:
    """Measures one line of `neighbours`. The features are non-negative, from 64 random dimensions."""
    from dgflow.metrics.protocols import PROTOCOLS
    from dgflow.specs.bound import Bound, BoundRows
    from dgflow.specs.step import here
    from dgflow.steps.judging.feature_passes import Population
    from dgflow.steps.judging.feature_passes import neighbours as passes
    from dgflow.store.open import open_store
    from dgflow.store.step_store import StepStore

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        mixing, items = np.random.default_rng(0).standard_normal((64, 2048)) / 8, {}
        for place, (name, rows) in enumerate((("samples", samples), ("reference", reference))):
            steps = StepStore(store, "features", f"{place:064x}")
            keys = []
            for number, start in enumerate(range(0, rows, 1000)):
                stop = min(start + 1000, rows)
                drawn = np.random.default_rng([place, number]).standard_normal((stop - start, 64)) * (
                    1.1 if name == "samples" else 1.0
                )
                columns = {
                    "index": np.arange(start, stop),
                    "features": np.maximum(drawn @ mixing, 0).astype(np.float32),
                }
                steps.write_shard(
                    number, columns, start=start, stop=stop, inputs={}, seconds=0, device="cpu", versions={}
                )
                keys.append(steps.done("shards", {})[number])
            items[name] = BoundRows(steps, steps.seal(0, rows, {}, keys), 0, rows)
        bound = Bound(items)
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        real, fake = Population(bound, "reference", reference), Population(bound, "samples", samples)
        found = passes(real, fake, PROTOCOLS["adm"].neighbours, "exact", here)
        seconds, peak = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"{samples:,} x {reference:,} x 2048: {seconds:.1f} s with {threads} threads, peak memory "
            f"{peak / 1024:,.0f} MiB (of which {before / 1024:,.0f} before); precision "
            f"{found.precision:.4f}, recall {found.recall:.4f}"
        )


def end_to_end(options: argparse.Namespace) -> None:
    """Measures `dgflow metrics` on an .npz of images against statistics, each time with a new root: seconds
    by number of workers."""
    from dgflow.weights.tensors import save_weights

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "inception.safetensors").write_bytes(save_weights(network().state_dict()))
        np.savez(f"{folder}/samples.npz", arr_0=random_images(options.images, options.side))
        statistics = {f"mu{layer}": np.full(width, 0.4) for layer, width in (("", 2048), ("_s", 2023))}
        statistics |= {f"sigma{layer}": 0.1 * np.eye(width) for layer, width in (("", 2048), ("_s", 2023))}
        np.savez(f"{folder}/reference.npz", **statistics)  # type: ignore[arg-type]
        for workers in options.workers:
            command = [
                sys.executable,
                "-m",
                "dgflow",
                "metrics",
                f"{folder}/samples.npz",
                f"{folder}/reference.npz",
            ]
            command += [
                "--protocol",
                options.protocol,
                "--weights",
                f"{folder}/inception.safetensors",
                "--json",
            ]
            command += ["--root", f"{folder}/root-{workers}", "--workers", str(workers)]
            began = time.monotonic()
            found = subprocess.run(
                command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )
            values = json.loads(found.stdout.splitlines()[-1])["values"]
            shown = ", ".join(f"{name} {value!r}" for name, value in values.items())
            print(
                f"{workers} workers: {time.monotonic() - began:.1f} s for {options.images:,} images; {shown}",
                flush=True,
            )


def alternated(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Runs the sides in turn, `rounds` times. Returns the minimum seconds of each side."""
    least = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        for name, run in sides.items():
            began = time.monotonic()
            run()
            least[name] = min(least[name], time.monotonic() - began)
    return least


if __name__ == "__main__":
    main()
