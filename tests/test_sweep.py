"""The command `sweep`: grids of a recipe's parameters as one graph, one table, one page."""

import csv
import html
import io
import json
import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from inprocess import execute_here

from dgflow.cli.guard import guarded
from dgflow.cli.recipe import application
from dgflow.cli.sweep_values import combinations
from dgflow.options import Seeds
from dgflow.specs.figures import Metric
from dgflow.specs.step import Result, ResultStep

COMPUTED: list[str] = []  # the titles of steps, in the order in which their files were made


class Base(ResultStep):
    """A step that every combination reads."""

    def compute(self, inputs, spread, store):
        COMPUTED.append("base")
        return b"{}"


def arm(**values):
    """An arm as `Evaluate` writes it, from the values of each quantity over sampling seeds."""
    arms = {}
    for name, each in values.items():
        mean = sum(each) / len(each)
        spread = None
        if len(each) > 1:
            spread = (sum((value - mean) ** 2 for value in each) / (len(each) - 1)) ** 0.5
        arms[name] = {"mean": mean, "spread": spread, "per_seed": each, "errors": [None] * len(each)}
    return arms


class Arms(ResultStep):
    """FID with its minimum at weight 1 and steps 8; `noise` is added for each seed and discriminator."""

    quantities: ClassVar = {"fid": Metric("FID", 2), "is": Metric("IS", 2, lower_is_better=False)}

    base: Result
    weight: float
    steps: int
    seeds: tuple[int, ...]
    discriminator: int
    method: str

    def compute(self, inputs, spread, store):
        COMPUTED.append(f"{self.weight} {self.steps} {list(self.seeds)} {self.discriminator}")
        noise = [0.25 * (seed % 3 - 1) for seed in self.seeds]
        center = 10 * (self.weight - 1) ** 2 + (self.steps - 8) ** 2 + self.discriminator
        guided = arm(fid=[center + each for each in noise], **{"is": [self.weight + each for each in noise]})
        plain = arm(fid=[20 + each for each in noise], **{"is": [0.5 + each for each in noise]})
        return json.dumps({"unguided": plain, "guided": guided}).encode()

    def compared(self, content):
        return json.loads(content)


def workflow(
    guidance_weight: Annotated[float, "of the gradient"] = 2.0,
    steps: int = 8,
    seeds: Seeds = (1, 2, 3),
    discriminator_seed: int = 0,
    method: Literal["heun", "euler"] = "heun",
    samples: int | None = None,
    best: bool = False,
) -> Arms:
    """A recipe whose numbers are known."""
    return Arms(
        base=Base().result(),
        weight=guidance_weight,
        steps=steps,
        seeds=tuple(seeds),
        discriminator=discriminator_seed,
        method=f"{method} {samples} {best}",
    )


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """The command line of the recipe, in this process and without Ray; gives status, output and errors."""
    monkeypatch.chdir(tmp_path)
    for module in ("recipe", "sweep_run"):
        monkeypatch.setattr(f"dgflow.cli.{module}.execute", execute_here)
    COMPUTED.clear()

    def call(*arguments, recipe=workflow):
        app = application(recipe, "parabola")
        status = guarded(lambda: app(args=list(arguments), standalone_mode=False))
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.out, printed.err

    return call


def last_object(text):
    return json.loads(text.splitlines()[-1])


def by_settings(data):
    return {tuple(row["settings"].values()): row for row in data["rows"]}


def test_a_grid_has_a_row_per_combination_and_what_all_share_is_made_once(call):
    status, out, _ = call("sweep", "--guidance-weight", "0.5,1,2", "--steps", "4,8", "--json")
    data = last_object(out)
    assert status == 0 and data["parameters"] == ["guidance_weight", "steps"]
    assert [row["settings"] for row in data["rows"]] == [
        {"guidance_weight": weight, "steps": steps} for weight in (0.5, 1.0, 2.0) for steps in (4, 8)
    ]
    # (1 - 1)^2 and (8 - 8)^2 vanish; the noise of seeds 1, 2, 3 is 0, 0.25, -0.25.
    assert by_settings(data)[1.0, 8]["fid"] == {
        "mean": 0.0,
        "spread": 0.25,
        "error": None,
        "values": [0.0, 0.25, -0.25],
    }
    assert by_settings(data)[2.0, 4]["fid"]["mean"] == 10 + 16
    (unguided,) = data["references"]
    assert unguided["arm"] == "unguided" and unguided["fid"]["mean"] == 20
    assert COMPUTED.count("base") == 1 and len(COMPUTED) == 1 + 6


def test_a_repeated_or_wider_sweep_and_the_plain_recipe_reuse_what_is_there(call):
    assert call("sweep", "--guidance-weight", "0.5,1")[0] == 0
    before = len(COMPUTED)
    assert call("sweep", "--guidance-weight", "0.5,1")[0] == 0
    assert len(COMPUTED) == before
    status, out, _ = call("sweep", "--guidance-weight", "0.5,1,2", "--plan", "--json")
    plan = last_object(out)
    assert status == 0 and plan["total"]["todo"] == 2  # one combination, and the table
    assert call("status", "--guidance-weight", "1")[0] == 0  # the recipe itself is complete
    status, out, _ = call("sweep", "--guidance-weight", "0.5,1,2", "--plan")
    assert "guidance-weight 2" in out and "for several combinations" in out


def test_a_sweep_that_was_interrupted_goes_on_where_it_was(call, monkeypatch):
    compute = Arms.compute

    def stopped(step, inputs, spread, store):
        if step.weight == 2:
            raise KeyboardInterrupt
        return compute(step, inputs, spread, store)

    monkeypatch.setattr(Arms, "compute", stopped)
    status, _, err = call("sweep", "--guidance-weight", "0.5,1,2,3")
    assert status == 130 and "the same command continues from there" in err and len(COMPUTED) == 3
    monkeypatch.setattr(Arms, "compute", compute)
    assert call("sweep", "--guidance-weight", "0.5,1,2,3")[0] == 0
    assert COMPUTED[3:] == ["2.0 8 [1, 2, 3] 0", "3.0 8 [1, 2, 3] 0"]


def test_the_plan_of_a_sweep_makes_nothing(call, tmp_path):
    status, _, _ = call("sweep", "--guidance-weight", "0.5,1", "--plan")
    assert status == 0 and list(tmp_path.iterdir()) == [] and COMPUTED == []


def test_zipped_lists_are_paired(call):
    _, out, _ = call("sweep", "--guidance-weight", "0.5,1,2", "--steps", "4,8,9", "--zip", "--json")
    rows = by_settings(last_object(out))
    assert list(rows) == [(0.5, 4), (1.0, 8), (2.0, 9)]
    assert rows[2.0, 9]["fid"]["mean"] == 10 + 1


def test_the_best_is_marked_with_all_that_are_within_its_error_and_no_others(call):
    # FID 0 at 1, 0.4 at 1.2, 0.625 at 0.75; the two spreads together are 0.25 + 0.25.
    _, out, _ = call("sweep", "--guidance-weight", "0.75,1,1.2", "--json")
    assert last_object(out)["best"]["fid"] == {"row": 1, "within_error": [2]}
    assert last_object(out)["best"]["is"] == {"row": 2, "within_error": [0, 1]}
    text = "\n".join(out.splitlines()[:-1])
    assert "0.00 ± 0.25 *" in text and "0.40 ± 0.25 ~" in text and "0.62 ± 0.25  " in text
    assert "chosen on the same seeds that are reported" in text and "--select-on SEEDS" in text


def test_values_that_are_averaged_over_are_repetitions_with_their_spread(call):
    arguments = ["--guidance-weight", "1,2", "--discriminator-seed", "0,1,5", "--over", "discriminator-seed"]
    _, out, _ = call("sweep", *arguments, "--json")
    data = last_object(out)
    assert list(by_settings(data)) == [(1.0,), (2.0,)]
    row = by_settings(data)[(2.0,)]
    assert row["repetitions"] == 3 and row["fid"]["values"] == [10, 11, 15]
    assert row["fid"]["mean"] == 12 and row["fid"]["spread"] == pytest.approx(7**0.5)  # (4 + 1 + 9) / 2
    (unguided,) = data["references"]  # the same for every discriminator: its spread is that of its own seeds
    assert unguided["repetitions"] == 1 and unguided["fid"]["spread"] == pytest.approx(0.25)
    assert "over 3 repetitions with other discriminator-seed" in out


def verdict(root="runs/parabola"):
    """Returns the first screen of the sweep's page as text."""
    text = (Path(root) / "report.html").read_text()
    (shown,) = re.findall(r'<div class="verdict.*?</svg>', text, re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", shown)))


def test_the_page_begins_with_the_best_variant_its_interval_and_the_bias_of_the_choice(call):
    over = ["--discriminator-seed", "0,1,5", "--over", "discriminator-seed"]
    assert call("sweep", "--guidance-weight", "1,2", *over)[0] == 0
    shown = verdict()
    # At weight 1, FID is 0, 1 and 5 against 20: -18, with Student's t of 2 degrees of freedom.
    half = 4.302652729749 * (7 / 3) ** 0.5
    assert "Best of 2 variants: better −18.00 FID against unguided" in shown
    assert "guided with guidance-weight 1 lowers FID from 20.00 to 2.00." in shown
    assert f"95% interval −{18 + half:.2f} to −{18 - half:.2f}" in shown
    assert "3 repetitions with other discriminator-seed" in shown
    assert "The best of 2 variants is chosen on these samples" in shown
    page = Path("runs/parabola/report.html").read_text()
    assert not re.search(r"<th[^>]*>\s*</th>", page)  # the unguided arm has no settings
    assert shown.index("guidance-weight 1 −18") < shown.index("guidance-weight 2 −8")


def test_averaging_over_all_that_is_swept_gives_one_row(call):
    _, out, _ = call("sweep", "--discriminator-seed", "0,1,5", "--over", "discriminator-seed", "--json")
    data = last_object(out)
    (row,) = data["rows"]
    assert row["fid"]["mean"] == 12 and row["settings"] == {} and data["best"] == {}


def test_sampling_seeds_are_averaged_over_in_every_way_to_say_so(call):
    tables = []
    for seeds in ([], ["--over", "seeds"], ["--seeds", "1,2,3", "--over", "seeds"], ["--seeds", "1;2;3"]):
        over = ["--over", "seeds"] if seeds and ";" in seeds[1] else []
        status, out, _ = call("sweep", "--guidance-weight", "1,2", *seeds, *over, "--json")
        data = last_object(out)
        assert status == 0
        tables.append(
            [
                (row["settings"], row["fid"]["mean"], pytest.approx(row["fid"]["spread"]))
                for row in data["rows"] + data["references"]
            ]
        )
    assert tables[0] == tables[1] == tables[2] == tables[3]
    assert [row[1] for row in tables[0]] == [0, 10, 20]


def test_selection_chooses_on_some_seeds_and_reports_on_the_others(call):
    arguments = ["sweep", "--guidance-weight", "0.5,1,2", "--select-on", "7,8", "--seeds", "1,2"]
    status, out, err = call(*arguments, "--plan", "--json")
    plan = last_object(out)
    assert status == 0 and plan["selection"]["total"]["todo"] == 5 and "report" not in plan
    assert "then the best of 3 combinations by the first metric is measured on seeds 1, 2" in err
    status, out, _ = call(*arguments, "--json")
    data = last_object(out)
    assert status == 0 and data["choice"] == {"guidance_weight": 1.0} and data["by"] == "fid"
    assert len(data["selection"]["rows"]) == 3
    (row,) = data["report"]["rows"]
    assert row["fid"]["values"] == [0.0, 0.25]  # of seeds 1 and 2; 7 and 8 would give 0 and 0.25 too
    assert [each for each in COMPUTED if "[1, 2]" in each] == ["1.0 8 [1, 2] 0"]  # the choice alone
    assert data["report"]["best"] == {} and data["report"]["references"][0]["arm"] == "unguided"
    assert out.index("Selection: measured to choose, not the result, seeds 7, 8") < out.index(
        "Result: the choice on other seeds, 1, 2"
    )
    assert "--select-on SEEDS" not in out
    page = Path("runs/parabola/report.html").read_text()  # each table stands on it once
    for heading in ("Selection: measured to choose", "Result: the choice on other seeds"):
        assert page.count(f"<strong>{heading}") == 1
    assert "chosen on the same seeds that are reported" not in page
    shown = verdict()
    assert "Better −20.00 FID against unguided" in shown and "variants: better" not in shown
    assert "Chosen among 3 variants by FID on the seeds 7, 8, and measured on the seeds 1, 2." in shown
    made = len(COMPUTED)
    status, out, _ = call(*arguments, "--plan", "--json")
    assert last_object(out)["report"]["total"]["todo"] == 0
    assert call(*arguments)[0] == 0 and len(COMPUTED) == made


def test_selection_by_another_metric_takes_its_direction(call):
    arguments = ["sweep", "--guidance-weight", "0.5,1,2", "--select-on", "7,8", "--by", "is", "--json"]
    assert last_object(call(*arguments)[1])["choice"] == {"guidance_weight": 2.0}


def test_selection_keeps_the_repetitions_of_its_choice(call):
    over = ["--discriminator-seed", "0,1", "--over", "discriminator-seed"]
    data = last_object(call("sweep", "--guidance-weight", "1,2", *over, "--select-on", "7", "--json")[1])
    (row,) = data["report"]["rows"]
    assert data["choice"] == {"guidance_weight": 1.0} and row["fid"]["values"] == [0, 1]


def test_csv_has_the_numbers_of_the_json_and_standard_output_to_itself(call, tmp_path):
    arguments = ["sweep", "--guidance-weight", "0.1,1", "--method", "euler,heun"]
    data = last_object(call(*arguments, "--json", "--csv", "rows.csv")[1])
    status, out, err = call(*arguments, "--csv", "-")
    assert status == 0 and out == (tmp_path / "rows.csv").read_text() and "Sweep over" in err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["arm"] for row in rows] == ["guided"] * 4 + ["unguided"]
    for row, known in zip(rows, data["rows"] + data["references"], strict=True):
        assert float(row["fid"]) == known["fid"]["mean"] and float(row["fid_error"]) == known["fid"]["spread"]
    assert [row["fid_mark"] for row in rows] == ["", "", "best", "within error", ""]
    assert (rows[0]["guidance-weight"], rows[0]["method"]) == ("0.1", "euler")
    assert "gives the same as" in err  # the method changes nothing here


def test_the_page_of_a_sweep_names_its_lists(call, tmp_path):
    assert call("sweep", "--guidance-weight", "1,2", "--steps", "7")[0] == 0
    page = (tmp_path / "runs/parabola/report.html").read_text()
    assert "sweep over guidance-weight" in page and "--guidance-weight 1,2 --steps 7" in page


ERRORS = [
    ("--guidance-weigth 1,2", "No such option: --guidance-weigth"),
    ("--guidance-weight 1,much", "--guidance-weight: expected a number, found 'much'"),
    ("--guidance-weight 1,nan", "--guidance-weight: expected a number, found 'nan'"),
    ("--steps 4,8.5", "--steps: expected a whole number, found '8.5'"),
    ("--best true,perhaps", "--best: expected true or false, found 'perhaps'"),
    ("--method heun,eular", "--method: expected heun or euler, found 'eular'; did you mean euler?"),
    ("--seeds 1,2;3,x", "--seeds: expected whole numbers with commas between them, found '3,x'"),
    ("--samples 5,few", "--samples: expected a whole number or none, found 'few'"),
    ("--steps 4,8,4", "--steps: expected each value once, found 4 twice"),
    ("--steps 4,8 --guidance-weight 1,2,3 --zip", "found --guidance-weight of 3, --steps of 2"),
    ("", "expected several values of at least one parameter, as in --guidance-weight A,B,C, found none"),
    ("--steps 4", "found one value of each"),
    (
        "--steps 4,8 --over step",
        "--over: expected a parameter of the recipe, found step; did you mean steps?",
    ),
    ("--steps 4,8 --over best", "--over: expected a parameter with several values, found best"),
    ("--steps 4,8 --by fid", "expected --select-on SEEDS with --by, found none"),
    (
        "--steps 4,8 --select-on 3,4",
        "expected seeds that are not among the reported ones, --seeds 1,2,3, found 3",
    ),
    ("--seeds 1;2 --select-on 3", "expected one list of --seeds, on which the choice is reported, found 2"),
    (
        "--steps 4,8 --select-on 9 --by fdi",
        "--by: expected a metric of the table, found fdi; did you mean fid?",
    ),
    ("--steps 4,8 --json --csv -", "expected --json or --csv -, found both"),
]


@pytest.mark.parametrize(
    ("arguments", "words"), ERRORS, ids=[arguments or "nothing" for arguments, _ in ERRORS]
)
def test_a_mistake_is_told_with_what_was_expected_and_found_before_anything_is_made(
    call, tmp_path, arguments, words
):
    status, out, err = call("sweep", *arguments.split())
    told = " ".join(err.replace("│", " ").split())
    assert status == 2 and words in told
    assert out == "" and list(tmp_path.iterdir()) == [] and COMPUTED == []


def test_more_than_a_thousand_combinations_want_a_yes(call, tmp_path):
    many = ["--guidance-weight", ",".join(map(str, range(39))), "--steps", ",".join(map(str, range(26)))]
    status, _, err = call("sweep", *many)  # 1,014
    assert status == 2 and "expected at most 1,000 combinations (arms), found 1,014" in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []
    values = {"weight": range(39), "steps": range(26)}
    assert len(combinations(values, zipped=False, yes=True)) == 1_014
    assert len(combinations({"steps": range(1_000)}, zipped=False, yes=False)) == 1_000
    assert len(combinations({"a": range(1_000), "b": range(1_000)}, zipped=True, yes=False)) == 1_000


def test_none_and_truth_values_and_lists_are_values(call):
    _, out, _ = call("sweep", "--samples", "none,5", "--best", "false,true", "--json")
    settings = [row["settings"] for row in last_object(out)["rows"]]
    assert settings[0] == {"samples": None, "best": False} and settings[-1] == {"samples": 5, "best": True}
    _, out, _ = call("sweep", "--seeds", "1,2;3,4", "--json")
    data = last_object(out)  # other seeds change every arm
    assert [(row["settings"]["seeds"], row["arm"]) for row in data["rows"]] == [
        (seeds, arm) for seeds in ([1, 2], [3, 4]) for arm in ("unguided", "guided")
    ]
    assert data["references"] == []


def test_a_recipe_that_compares_nothing_or_refuses_a_combination_is_told(call):
    status, _, err = call("sweep", "--weight", "1,2", recipe=lambda weight=1.0: Base())
    assert status == 1 and "expected a recipe whose result compares arms, such as Evaluate, found base" in err

    def refuses(weight: float = 1.0) -> Arms:
        if weight > 1:
            raise ValueError("expected less")
        return workflow(weight)

    status, _, err = call("sweep", "--weight", "1,2", recipe=refuses)
    assert status == 1 and "expected less (with weight 2)" in err and f"{__file__.rpartition('/')[2]}:" in err


def test_a_recipe_without_a_list_of_seeds_has_no_seeds_to_select_on(call):
    status, _, err = call(
        "sweep", "--weight", "1,2", "--select-on", "3", recipe=lambda weight=1.0: workflow(weight)
    )
    assert status == 2 and "a parameter `seeds`, a list of sampling seeds, found none" in " ".join(
        err.split()
    )


def test_a_parameter_without_a_default_has_to_be_given_and_may_be_the_one_that_is_swept(call):
    def recipe(weight: float, steps: int) -> Arms:
        return workflow(weight, steps)

    status, _, err = call("sweep", "--weight", "1,2", recipe=recipe)
    assert status == 2 and "expected --steps, found none: the recipe has no default" in " ".join(err.split())
    assert call("sweep", "--weight", "1,2", "--steps", "8", recipe=recipe)[0] == 0


def test_a_parameter_named_as_an_option_of_the_command_leaves_the_others_to_sweep(call):
    status, out, _ = call(
        "sweep", "--weight", "1,2", "--json", recipe=lambda weight=1.0, over=8: workflow(weight, over)
    )
    assert status == 0 and len(last_object(out)["rows"]) == 2


def test_an_option_is_known_by_its_former_name_too(call):
    _, out, _ = call("sweep", "--guidance-weight", "1,2", "--seed", "7", "--json")
    assert [row["fid"]["values"] for row in last_object(out)["rows"]] == [[0.0], [10.0]]
