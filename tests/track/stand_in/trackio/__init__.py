"""The part of Trackio 0.43 that dgflow calls, in one JSON file: Trackio itself needs another Pillow than the
tests'."""

import json
import os
from pathlib import Path
from typing import Any

TRACKIO_DIR = Path(os.environ["TRACKIO_DIR"])
_FILE = TRACKIO_DIR / "runs.json"


def _runs() -> dict[str, dict[str, Any]]:
    return json.loads(_FILE.read_text()) if _FILE.exists() else {}


class SQLiteStorage:
    @staticmethod
    def get_logs(project: str, run: str) -> list[dict[str, Any]]:
        return _runs().get(f"{project}/{run}", {}).get("logs", [])

    @staticmethod
    def get_run_records(project: str) -> list[dict[str, Any]]:
        return [{"name": name.partition("/")[2]} for name in _runs() if name.startswith(f"{project}/")]

    @staticmethod
    def get_run_config(project: str, run: str) -> dict[str, Any]:
        return _runs()[f"{project}/{run}"]["config"]


class Markdown(str):
    pass


class Image:
    def __init__(self, picture: Any, caption: str) -> None:
        self.size, self.caption = picture.size, caption


class _Run:
    def __init__(self, key: str, config: dict[str, Any]) -> None:
        self.key, self.config, self.logs = key, config, []

    def log(self, values: dict[str, Any], step: int) -> None:
        plain = {
            name: value if isinstance(value, float | int | str) else vars(value)
            for name, value in values.items()
        }
        self.logs.append({**plain, "step": step, "timestamp": "now"})


_current: list[_Run] = []


def init(
    project: str,
    name: str,
    *,
    group: str,
    config: dict[str, Any],
    resume: str,
    embed: bool,
    auto_log_gpu: bool,
    auto_log_cpu: bool,
) -> _Run:
    assert resume == "allow" and not (embed or auto_log_gpu or auto_log_cpu) and group
    _current.append(_Run(f"{project}/{name}", config))
    return _current[-1]


def finish() -> None:
    """Store everything at the end of a run, like Trackio."""
    run, runs = _current.pop(), _runs()
    record = runs.setdefault(run.key, {"config": run.config, "logs": []})
    record["logs"] += run.logs
    TRACKIO_DIR.mkdir(parents=True, exist_ok=True)
    _FILE.write_text(json.dumps(runs))
