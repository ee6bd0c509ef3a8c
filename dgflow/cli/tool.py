"""The command `dgflow`: works on images and roots without a recipe.

Exit status: 0 for success, 1 for an error, 2 for an invalid command line.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from dgflow.cli import look
from dgflow.cli.asked import described
from dgflow.cli.collect import collect_garbage
from dgflow.cli.completion import script
from dgflow.cli.export import export as write
from dgflow.cli.guard import SETTINGS, print_json, run
from dgflow.cli.new import new_folder
from dgflow.cli.options import AsJson, DropAlpha, ExistingRoot, IgnoreLabels, NumGpus, Workers, Yes
from dgflow.cli.preview import AsPreview
from dgflow.cli.publish import publish_step
from dgflow.cli.remove import remove_step
from dgflow.cli.root import existing_root, open_root, root_url
from dgflow.cli.track import track as track_root
from dgflow.engine.execute import execute, result_of
from dgflow.metrics.protocols import METRICS, Distances
from dgflow.metrics.result import MetricResult, difference, read_result
from dgflow.networks.catalogue import CATALOGUE
from dgflow.networks.inception import published as inception
from dgflow.networks.published import STATISTICS_FORMATS
from dgflow.report.metrics_table import metrics_table
from dgflow.runtime.placement import Placement
from dgflow.runtime.progress import Progress
from dgflow.steps.judging.comparison import check_may_compare, comparison
from dgflow.store.objects import ObjectStore, StoreError
from dgflow.store.open import as_typed
from dgflow.track.trackers import LOGDIR, TrackerName, opened
from dgflow.weights.fetch import fetch

SOURCES = (
    "A folder, zip or tar of images, an .npz (arr_0 or samples), Parquet files, CIFAR's archive, or a step "
    "of a run, ROOT/NAME[start:stop]; local or s3://. Of several splits train is taken; SOURCE@SPLIT, such "
    "as data@val, names another."
)
_STATISTICS = [name for name, file in CATALOGUE.items() if file.format in STATISTICS_FORMATS]
app = typer.Typer(
    help="Inspect the results of runs, measure and export images, publish networks and samples, and remove "
    "what no run needs.",
    no_args_is_help=True,
    **SETTINGS,
)


def main() -> None:
    """Run the command `dgflow`."""
    run(lambda: app)


@app.command(short_help="Measure samples against a reference.")
def metrics(
    samples: Annotated[
        str,
        typer.Argument(
            metavar="SAMPLES",
            help=f"What was generated. {SOURCES} Or an .npz with mu, sigma [mu_s, sigma_s], for FID [sFID].",
        ),
    ],
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REFERENCE",
            autocompletion=lambda: _STATISTICS,
            help="What it is compared with: as SAMPLES; an .npz with mu, sigma [mu_s, sigma_s] too; or a "
            "published one, by its name: "
            "fid-cifar10-32x32, fid-ffhq-64x64, adm-reference-imagenet-256.",
        ),
    ],
    protocol: Annotated[
        Literal["adm", "edm", "clean"],
        typer.Option(
            help="Whose numbers to be comparable with: adm (ImageNet), edm (CIFAR, FFHQ, CelebA), clean "
            "(clean-fid)."
        ),
    ],
    weights: Annotated[
        str,
        typer.Option(
            autocompletion=lambda: [file.name for file in inception.FILES],
            help="Inception: a name of the catalogue, or a file (.pth, .pt, .pb, .pkl, .safetensors).",
        ),
    ] = "inception-2015-12-05",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            callback=lambda names: _known(names),
            autocompletion=lambda: list(METRICS),
            help=f"{', '.join(METRICS)}; repeat it for several. By default the protocol's.",
            show_default=False,
        ),
    ] = None,
    distances: Annotated[
        Distances,
        typer.Option(help="Distances for precision and recall: exact, or rounded as in OpenAI's evaluator."),
    ] = "exact",
    against: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A file with earlier --json output: show the changes since, and which exceed noise.",
            show_default=False,
        ),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            help="Root for features, for later comparisons and for continuing after a stop. By default "
            "$DGFLOW_ROOT, or else runs/metrics.",
            show_default=False,
        ),
    ] = None,
    ignore_labels: IgnoreLabels = False,
    drop_alpha: DropAlpha = False,
    workers: Workers = None,
    num_gpus: NumGpus = None,
    json: AsJson = False,
) -> int:
    """FID, sFID, Inception score, precision, recall, F1 and KID of SAMPLES against REFERENCE, equal to the
    standard evaluators'."""
    # As many errors as possible are found before the first image is processed.
    before = None if against is None else _earlier(against)
    url = root_url(root, "runs/metrics")
    if reference in _STATISTICS:
        reference = str(fetch(open_root(url), CATALOGUE[reference]).path)
    target = comparison(
        samples,
        reference,
        protocol,
        weights=weights,
        metrics=metric,
        distances=distances,
        ignore_labels=ignore_labels,
        drop_alpha=drop_alpha,
    )
    if before is not None:
        check_may_compare(target, before)
    store = open_root(url)
    values = {"samples": samples, "reference": reference, "protocol": protocol, "weights": weights}
    asked = described("dgflow metrics", metrics.__doc__, values, changed=values)
    try:
        execute(target, store, Placement(workers, num_gpus=num_gpus), Progress(asked))
    except StoreError as error:
        raise StoreError(f"{error}{_by_hand(weights, store) if target.features else ''}") from error
    result = read_result(result_of(target, store), target.title)
    if before is not None:
        difference(result, before)  # raises for incomparable results before anything is printed
    print(metrics_table(result, before))
    if json:
        print_json(result.model_dump(mode="json"))
    return 0


def _known(names: list[str] | None) -> list[str] | None:
    if unknown := sorted(set(names or ()) - set(METRICS)):
        raise typer.BadParameter(f"expected metrics of {', '.join(METRICS)}, found {', '.join(unknown)}")
    return names or None


def _earlier(path: Path) -> MetricResult:
    """Read a result from a file that has only the result, or the saved output of a command."""
    data = path.read_bytes().strip()
    return read_result(data if data.startswith(b"{") else data.rpartition(b"\n")[2], str(path))


def _by_hand(weights: str, store: ObjectStore) -> str:
    """The remedy if published weights cannot be downloaded; empty if the root has them, so that the error has
    another cause.
    """
    file = CATALOGUE.get(weights)
    if file is None or store.size(f"weights/{file.name}.json") is not None:
        return ""
    return (
        f". Without a network: download that file elsewhere and copy it to {as_typed(store)}/weights/"
        f"{file.name}/{file.file_name}, or give a copy as --weights FILE"
    )


@app.command(short_help="Write samples as files for other tools.")
def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help=f"{SOURCES} A step of features gives their mean and covariance, as .npz; a training or a "
            "Pretrained its weights, as .safetensors or .pt.",
        ),
    ],
    output: Annotated[
        str,
        typer.Argument(
            metavar="OUTPUT",
            help="File or folder to write, on a disk or s3://; existing files are never overwritten.",
        ),
    ],
    format: Annotated[
        Literal["npz", "png", "parquet"],
        typer.Option(
            help="npz: arr_0, as OpenAI's evaluator reads it; png: EDM's folders or a zip; parquet: as "
            "Hugging Face reads it."
        ),
    ] = "npz",
    ignore_labels: IgnoreLabels = False,
    drop_alpha: DropAlpha = False,
    epoch: Annotated[
        str, typer.Option(help="Epoch of a training's weights: last, best (held-out loss), or a number.")
    ] = "last",
) -> int:
    """Write samples, statistics of features, or weights as files for other tools."""
    text = write(source, output, format, ignore_labels=ignore_labels, drop_alpha=drop_alpha, epoch=epoch)
    print(text)
    return 0


@app.command(short_help="Publish a trained network, or generated images.")
def publish(
    source: Annotated[
        str,
        typer.Argument(
            metavar="ROOT/STEP",
            help="A training, whose weights of one epoch are published, or generated images, "
            "ROOT/STEP[start:stop]; a beginning of the step's name is enough.",
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A new folder, on a disk or s3://, or hf:user/name on the Hugging Face hub, with the token "
            "of hf auth login or HF_TOKEN.",
        ),
    ],
    epoch: Annotated[
        str | None,
        typer.Option(
            help="Epoch of a training: last, best (held-out loss), or a number. By default the one from "
            "which the steps of the root were made, else the last.",
            show_default=False,
        ),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence",
            "--license",
            help="The hub's name of the licence, such as mit. By default that of the published networks that "
            "it was made with, where they have one.",
            show_default=False,
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository a private one.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="On the hub: replace what another step left there.")
    ] = False,
    json: AsJson = False,
) -> int:
    """Publish a trained network, with what official() needs to use it in a recipe, or generated images as a
    data set, with a card that is written from receipts.

    The same command again makes no new commit.
    """
    return publish_step(
        source, target, epoch=epoch, licence=licence, private=private, replace=replace, json=json
    )


@app.command(short_help="Write the folder of a recipe of your own.")
def new(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER", help="Folder to write into; it may exist. Existing files are not overwritten."
        ),
    ],
) -> int:
    """Write a recipe on a network of your own, a stub of the network, a test of both, .rayignore and
    .gitignore: the start of docs/own-model.md."""
    print(new_folder(folder))
    return 0


@app.command(short_help="Remove a step from a root, with the steps made from it.")
def rm(
    step: Annotated[
        str,
        typer.Argument(
            metavar="ROOT/STEP",
            help="The folder of a step in a root, or a beginning of its name: runs/digits/generate-3fa9.",
        ),
    ],
    yes: Yes = False,
    json: AsJson = False,
) -> int:
    """Remove a step from a root, and every step there that was made from it, directly or not.

    Without --yes nothing is removed, and what would be removed is shown. Refused while an active run needs
    one of the steps. A run of the recipe rebuilds what it needs.
    """
    return remove_step(step, yes=yes, json=json)


@app.command(short_help="List the runs that a root holds.")
def ls(root: ExistingRoot, json: AsJson = False) -> int:
    """List the runs that a root holds: recipe, options, how far each is, and who works on it. Needs no
    recipe, and writes nothing."""
    return look.list_runs(existing_root(root), json=json)


@app.command(short_help="Show the progress of the runs in a root.")
def status(root: ExistingRoot, json: AsJson = False, preview: AsPreview = False) -> int:
    """Show every step of the runs that a root holds, from the root alone. Needs no recipe, and writes
    nothing but previews. Exit status 1 while anything is missing."""
    return look.status(existing_root(root), json=json, preview=preview)


@app.command(short_help="Show a root in TensorBoard, MLflow, W&B or Trackio.")
def track(
    root: ExistingRoot,
    to: Annotated[TrackerName, typer.Option(help="The tracker; install it with dgflow[TRACKER].")],
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Continue until no run is active; wait for a root that does not exist yet."
        ),
    ] = False,
    every: Annotated[
        float, typer.Option(min=1, help="Seconds between two reads of the root with --follow.")
    ] = 30.0,
    logdir: Annotated[
        str | None, typer.Option(help=f"Folder of TensorBoard. By default {LOGDIR}.", show_default=False)
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            help="Server or database of MLflow. By default $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db.",
            show_default=False,
        ),
    ] = None,
    json: AsJson = False,
) -> int:
    """Write curves of epochs, tables of metrics, sample grids and settings to an experiment tracker.

    Reads the root alone, and writes nothing there. What the tracker has is not written again, so that the
    command can be stopped and repeated at any time. W&B and Trackio are set up by their own variables, such
    as WANDB_PROJECT and WANDB_MODE=offline.
    """
    if not follow:
        existing_root(root)
    tracker = opened(to, logdir=logdir, tracking_uri=tracking_uri)
    return track_root(root, tracker, follow=follow, every=every, json=json)


@app.command(short_help="Remove unreferenced objects from a root.")
def gc(root: ExistingRoot, yes: Yes = False, json: AsJson = False) -> int:
    """Remove unreferenced objects: data without a receipt and notes of finished work, older than a week.

    A run may be active meanwhile. Without --yes nothing is removed.
    """
    return collect_garbage(existing_root(root), yes=yes, json=json)


@app.command(short_help="Print the completion script for bash and zsh.")
def completion() -> int:
    """Print a script that completes this command in bash and zsh: commands, options and their values, names
    of the catalogue, and, as files, the steps of a root. Load it where the shell starts:

    \b
    dgflow completion > ~/.dgflow-completion
    echo '. ~/.dgflow-completion' >> ~/.bashrc    # or ~/.zshrc
    """
    print(script(app), end="")
    return 0
