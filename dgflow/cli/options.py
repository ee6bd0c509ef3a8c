"""Options that several commands share."""

from typing import Annotated

import typer

ExistingRoot = Annotated[
    str, typer.Argument(metavar="ROOT", help="Root of the runs: a folder or s3://bucket/prefix.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on the last line of standard output.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Maximum number of processes for samples and features. By default one per GPU for networks, or "
        "else one per CPU; on a cluster, as many as its autoscaler may provide.",
        show_default=False,
    ),
]
NumGpus = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="NUMBER",
        help="GPUs per process that runs networks; a fraction shares a GPU, 0 computes on the CPU. By "
        "default 1 if there are GPUs.",
        show_default=False,
    ),
]
IgnoreLabels = Annotated[
    bool, typer.Option("--ignore-labels", help="Ignore the labels of samples and reference.")
]
DropAlpha = Annotated[
    bool,
    typer.Option(
        "--drop-alpha",
        help="Drop the alpha channel of transparent pictures, as the standard tools do. By default they are "
        "refused.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Remove. By default, only show what would be removed.")]
Root = Annotated[
    str | None,
    typer.Option(
        metavar="ROOT",
        help="Root for all results: a folder or s3://bucket/prefix. By default $DGFLOW_ROOT, or else "
        "runs/NAME.",
        show_default=False,
    ),
]
Smoke = Annotated[
    bool,
    typer.Option(
        "--smoke",
        help="Run the recipe at toy size, with random weights and synthetic images, in a separate root "
        "(runs/NAME-smoke).",
    ),
]
TrainWorkers = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Maximum number of processes that train together. By default one per GPU, or else per CPU.",
        show_default=False,
    ),
]
CheckpointMinutes = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="MINUTES",
        help="Minutes between checkpoints within an epoch of a training; 0: only at the ends of epochs.",
    ),
]
