"""Opens trackers by name."""

from __future__ import annotations

from typing import Literal

from dgflow.extras import require
from dgflow.track.tracker import Tracker

TrackerName = Literal["tensorboard", "mlflow", "wandb", "trackio"]
LOGDIR = "runs/tensorboard"


def opened(name: TrackerName, *, logdir: str | None = None, tracking_uri: str | None = None) -> Tracker:
    """Open the tracker of that name.

    Args:
        logdir: TensorBoard's folder, by default `LOGDIR`.
        tracking_uri: MLflow's URI, by default $MLFLOW_TRACKING_URI, or else sqlite:///mlflow.db.

    Raises:
        ValueError: the tracker's package is not installed, or an option of another tracker is given.
    """
    for option, value, owner in (("logdir", logdir, "tensorboard"), ("tracking-uri", tracking_uri, "mlflow")):
        if value is not None and name != owner:
            raise ValueError(
                f"expected --{option} with --to {owner} only, found it with --to {name}; leave it out"
            )
    require(name, f"--to {name}")
    match name:
        case "tensorboard":
            from dgflow.track.to_tensorboard import TensorBoard

            return TensorBoard(logdir or LOGDIR)
        case "mlflow":
            from dgflow.track.to_mlflow import MLflow

            return MLflow(tracking_uri)
        case "wandb":
            from dgflow.track.to_wandb import Wandb

            return Wandb()
        case "trackio":
            from dgflow.track.to_trackio import Trackio

            return Trackio()
