"""Options that several commands share."""

from typing import Annotated

import typer

ExistingRoot = Annotated[
    str, typer.Argument(metavar="ROOT", help="Where runs are kept: a folder or s3://bucket/prefix.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on the last line of standard output.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="The most processes that make samples and features. By default one per GPU for networks, where "
        "there are any, else one per CPU; on a cluster as many as its autoscaler may make room for.",
        show_default=False,
    ),
]
NumGpus = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="GPUs of each process that runs networks; a fraction shares one, 0 computes on the CPU. By "
        "default 1 where there are any.",
        show_default=False,
    ),
]
IgnoreLabels = Annotated[
    bool, typer.Option("--ignore-labels", help="Read no labels: neither of samples nor of a reference.")
]
DropAlpha = Annotated[
    bool,
    typer.Option(
        "--drop-alpha",
        help="Leave out the alpha channel of transparent pictures, as the standard tools do. Without it they "
        "are refused.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Remove it. Without this, only show what would go.")]
Root = Annotated[
    str | None,
    typer.Option(
        help="Where everything is kept: a folder or s3://bucket/prefix. By default $DGFLOW_ROOT, else "
        "runs/NAME.",
        show_default=False,
    ),
]
Smoke = Annotated[
    bool,
    typer.Option(
        "--smoke",
        help="The same recipe at toy size, on random weights and made images, in a root of its own "
        "(runs/NAME-smoke).",
    ),
]
TrainWorkers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="The most processes that train together. By default one per GPU, or per CPU.",
        show_default=False,
    ),
]
CheckpointMinutes = Annotated[
    float,
    typer.Option(
        min=0,
        help="Minutes between checkpoints within an epoch of a training; 0 keeps those at the ends of epochs "
        "alone.",
    ),
]
