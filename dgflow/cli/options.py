"""Options that several commands share."""

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line of standard output.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes that make samples and features. By default one a CPU, or a GPU.", show_default=False),
]
NumGpus = Annotated[float, typer.Option(min=0, help="GPUs of each process; a fraction shares one.")]
