"""The metrics that a run exports, as Prometheus sees them, and the dashboard that draws them."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from dgflow.runtime import metrics

STEP = "generate-0123456789ab"
DASHBOARD = json.loads((Path(__file__).resolve().parents[2] / "docs" / "grafana-dashboard.json").read_text())
PANELS = DASHBOARD["panels"]
SAMPLE = re.compile(r"(?P<name>\w+)\{(?P<tags>.*)\} (?P<value>\S+)")


def scraped(port: int) -> dict[str, float]:
    """Returns the metrics of our step, summed over processes: from `name`, or `name{le}` of a bucket, to
    value.

    This process may have run other steps before.
    """
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        lines = reply.read().decode().splitlines()
    found: dict[str, float] = {}
    for match in filter(None, map(SAMPLE.fullmatch, lines)):
        if match["name"].startswith("ray_dgflow_") and f'step="{STEP}"' in match["tags"]:
            bucket = re.search(r'le="([^"]+)"', match["tags"])
            name = f"{match['name']}{{{bucket[1]}}}" if bucket else match["name"]
            found[name] = found.get(name, 0) + float(match["value"])
    return found


@pytest.fixture(scope="module")
def found(local_ray):
    """Scrapes after two workers completed three and four shards of 500 samples, and one attempt failed."""

    @ray.remote
    class Worker:
        def work(self, shards: int, failed: int) -> None:
            from dgflow.runtime import metrics

            for _ in range(shards):
                metrics.shard_done(STEP, 2.0, 500)
            for _ in range(failed):
                metrics.shard_failed(STEP)

    made = [Worker.remote(), Worker.remote()]
    ray.get([made[0].work.remote(3, 0), made[1].work.remote(4, 1)])
    metrics.workers(STEP, 2)
    metrics.parts(STEP, 7, 100)
    deadline = time.monotonic() + 300
    while True:
        try:
            told = scraped(ray.nodes()[0]["MetricsExportPort"])
        except OSError:
            told = {}  # Ray's agent is not ready yet
        done = told.get("ray_dgflow_shards_total") == 7 and "ray_dgflow_parts_wanted" in told
        if done or time.monotonic() > deadline:
            return told
        time.sleep(0.5)


def test_prometheus_sees_what_workers_and_driver_told(found):
    expected = {
        "ray_dgflow_shards_total": 7,
        "ray_dgflow_samples_total": 3500,
        "ray_dgflow_shard_failures_total": 1,
        "ray_dgflow_workers": 2,
        "ray_dgflow_parts_done": 7,
        "ray_dgflow_parts_wanted": 100,
        "ray_dgflow_shard_seconds_sum": 14.0,
        "ray_dgflow_shard_seconds_count": 7,
    }
    assert {name: value for name, value in found.items() if "_bucket" not in name} == expected


def test_times_of_shards_fall_into_buckets_from_a_tenth_of_a_second_to_three_hours(found):
    buckets = {name.rpartition("{")[2][:-1]: value for name, value in found.items() if "_bucket" in name}
    edges = [float(edge) for edge in buckets]
    assert (min(edges), sorted(edges)[-2]) == (0.1, 3 * 3600)
    assert (buckets["1.0"], buckets["3.0"], buckets["+Inf"]) == (0, 7, 7)  # 2 s each


def test_every_metric_of_ours_that_the_dashboard_asks_for_is_exported(found):
    exported = {name.partition("{")[0] for name in found}
    variables = [
        variable["query"]["query"]
        for variable in DASHBOARD["templating"]["list"]
        if variable["type"] == "query"
    ]
    asked = {
        name for expression in expressions() + variables for name in re.findall(r"\w*dgflow_\w+", expression)
    }
    assert asked and asked <= exported
    assert {name.removesuffix("_bucket") for name in asked} >= {
        "ray_dgflow_parts_done",
        "ray_dgflow_shard_failures_total",
        "ray_dgflow_shard_seconds",
        "ray_dgflow_workers",
    }


def test_every_metric_of_rays_that_the_dashboard_asks_for_is_one_that_ray_has():
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    asked = {name for expression in expressions() for name in re.findall(r"\bray_node_\w+", expression)}
    assert {"ray_node_gpus_utilization", "ray_node_gram_used"} <= asked
    assert {name.removeprefix("ray_") for name in asked} <= METRICS_GAUGES.keys()


def test_every_label_that_the_dashboard_groups_by_or_shows_is_one_that_its_metrics_carry():
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    for target in (target for panel in PANELS for target in panel["targets"]):
        carried = [{"step", "le"}] if "ray_dgflow_" in target["expr"] else []
        carried += [
            set(METRICS_GAUGES[name].view.columns) for name in re.findall(r"\bray_(node_\w+)", target["expr"])
        ]
        grouped = {
            label
            for labels in re.findall(r"\bby \(([^)]*)\)", target["expr"])
            for label in labels.split(", ")
        }
        matched = set(re.findall(r"[{,]\s*(\w+)\s*[=!]", target["expr"]))
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert shown and shown <= grouped
        assert carried and all(grouped | matched <= labels for labels in carried), target["expr"]


def expressions() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_has_a_title_a_unit_and_an_expression_on_the_data_source_that_was_chosen(panel):
    assert panel["title"] and panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"] and all(target["expr"] for target in panel["targets"])
    assert {panel["datasource"]["uid"], *(target["datasource"]["uid"] for target in panel["targets"])} == {
        "${datasource}"
    }
    assert [
        variable["type"] for variable in DASHBOARD["templating"]["list"] if variable["name"] == "datasource"
    ] == ["datasource"]


def test_panels_do_not_lie_on_one_another():
    squares = [
        (place["x"] + x, place["y"] + y)
        for place in (panel["gridPos"] for panel in PANELS)
        for x in range(place["w"])
        for y in range(place["h"])
    ]
    assert len(squares) == len(set(squares)) and max(x for x, _ in squares) < 24
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_without_ray_nothing_happens_and_ray_is_not_loaded():
    program = (
        "import sys; from dgflow.runtime import metrics;metrics.shard_done('generate-0', 1.0, 5); "
        "metrics.shard_failed('generate-0');metrics.workers('generate-0', 1); metrics.parts('generate-0', 1, "
        "2);print('ray' in sys.modules); import ray; metrics.parts('generate-0', 1, 2); "
        "print(ray.is_initialized())"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def test_what_goes_wrong_is_not_raised_into_the_work(monkeypatch):
    def broken():
        raise RuntimeError("no such metric")

    monkeypatch.setattr(metrics, "_metrics", broken)
    metrics.shard_done(STEP, 1.0, 5)
    metrics.shard_failed(STEP)
    metrics.workers(STEP, 1)
    metrics.parts(STEP, 1, 2)
