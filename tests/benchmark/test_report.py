"""The report of folders in every state: what it says, what it does not, and that it needs nothing from elsewhere."""

import csv
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_mammo.benchmark import cases
from monai_mammo.benchmark.analysis import Analysis, checks
from monai_mammo.benchmark.card import card
from monai_mammo.benchmark.claims import headline
from monai_mammo.benchmark.page import Table, html, markdown
from monai_mammo.benchmark.plan import Plan, settle
from monai_mammo.benchmark.records import keep_records
from monai_mammo.benchmark.report import VALIDATION, write_report
from monai_mammo.benchmark.results import read_benchmark
from monai_mammo.benchmark.runs import baselines_of, runs_of
from monai_mammo.benchmark.statistics import Difference
from monai_mammo.benchmark.systems import SYSTEMS as BENCHMARK_SYSTEMS
from monai_mammo.benchmark.tables import differences_table
from monai_mammo.bundles import config_of, find_bundle
from monai_mammo.datasets.datalist import load_datalist
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.evaluation import QualityReport, SegmentationReport
from monai_mammo.metrics import overlap_record

SYSTEMS = {"quality": ("resnet34", "resnet34_parb", "resnet34_kan"), "segmentation": ("respam_unet", "dynunet")}


@pytest.fixture(scope="module")
def data(phantoms, tmp_path_factory) -> Path:
    """The phantoms with three of their six patients held out: intervals need several."""
    out = shutil.copytree(phantoms, tmp_path_factory.mktemp("data") / "phantoms")
    for file in out.glob("*/dataset.json"):
        document = json.loads(file.read_text())
        patients = sorted({entry["patient"] for entry in document["training"]})[:2]
        document["test"] += [entry for entry in document["training"] if entry["patient"] in patients]
        document["training"] = [entry for entry in document["training"] if entry["patient"] not in patients]
        file.write_text(json.dumps(document))
    return out


def records_of(task: str, entries: list[dict], seed: int) -> list[dict]:
    """Results of a system that is right about two times in three."""
    rng = np.random.default_rng(seed)
    found = []
    for entry in entries:
        about = {"image": Path(entry["image"]).name, "patient": entry["patient"]}
        if task == "quality":
            found.append(
                {"label": entry["label"], "probability": float(rng.uniform(0.2, 1) ** (2 - entry["label"])), **about}
            )
            continue
        label = np.asarray(Image.open(entry["label"])) > 0
        pred = np.roll(label, int(rng.integers(1, 9)), axis=0)
        more = {"spacing": None, "lesions": 1, "candidates": f"0.9:{rng.integers(2)} 0.4:0"}
        found.append({**overlap_record(pred, label), **more, **about})
    return found


def finish(run, plan: Plan, seed: int) -> None:
    """Leave what a finished run leaves."""
    for test, place in plan.tests.items():
        records = records_of(plan.task, load_datalist(*place), seed)
        if plan.task == "segmentation":
            for number, (record, entry) in enumerate(zip(records, load_datalist(*place), strict=True)):
                record["mask"] = f"masks/{number}.png"
                (run.tests(test) / "masks").mkdir(parents=True, exist_ok=True)
                Image.open(entry["label"]).save(run.tests(test) / record["mask"])
        (QualityReport if plan.task == "quality" else SegmentationReport)(
            output_dir=run.tests(test), resamples=20
        ).write(records)
    (run.folder / "curves.csv").write_text(
        "epoch,train_loss,auc,mean_dice_of_images\n1,0.9,0.5,0.1\n2,0.7,,\n3,0.5,0.7,0.4\n"
    )
    trained = {"epochs": 3, "processes": 1, "torch": "2", "device": "a CPU"}
    run.note(trained=trained, tests={test: {"images": 1} for test in plan.tests})


def benchmark(out: Path, data: Path, task: str = "quality", done=lambda run: True, **more) -> Plan:
    """A benchmark folder in which some runs are done."""
    plan = Plan(task, SYSTEMS[task], (0, 1), str(data), mode="whole" if task == "segmentation" else "roi", **more)
    plan = settle(out, plan, find_bundle(task))
    for number, run in enumerate([*runs_of(out, plan), *baselines_of(out, plan)]):
        if done(run):
            finish(run, plan, number)
    return plan


def report(*folders: Path, **options) -> dict[str, str]:
    """The report's texts by their ending."""
    files = write_report(folders, folders[0].parent / "report", resamples=20, **options)
    return {file.suffix: file.read_text() for file in files}


def row(text: str, title: str) -> list[str]:
    """The first table row of a system."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


class Page(HTMLParser):
    """What a page loads, and what its pictures are called."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.unnamed = self.pictures = 0
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        values = dict(attrs)
        self.loaded += [value for key, value in attrs if key in ("src", "href", "xlink:href") and value[:1] != "#"]
        self.ids += [values["id"]] if "id" in values else []
        if tag in ("img", "svg"):
            self.pictures += 1
            self.unnamed += not (values.get("alt") or values.get("aria-label"))


@pytest.fixture
def few_suffice(monkeypatch) -> None:
    """The three patients of the data are enough to compare systems."""
    monkeypatch.setattr("monai_mammo.benchmark.analysis.FEWEST_PATIENTS", 3)


def test_of_a_few_patients_no_system_is_called_the_best(data, tmp_path):
    benchmark(tmp_path / "b", data)
    text = report(tmp_path / "b")[".md"]
    assert "Too few test patients (3) to compare systems." in text
    assert "Highest of" not in text
    assert "the paper reports" not in text


@pytest.mark.parametrize("task", ["quality", "segmentation"])
def test_a_finished_benchmark(data, tmp_path, task):
    benchmark(tmp_path / "b", data, task)
    found = report(tmp_path / "b")
    for picture in re.findall(r"\((images/benchmarks/[^)]+)\)", found[".md"]):
        assert (tmp_path / "report" / picture).stat().st_size < 300_000
    expected = {"quality": ["confusion", "roc", "curves"], "segmentation": ["froc", "cases", "curves"]}[task]
    assert all(f"b_{name}" in found[".md"] for name in expected)
    assert "DOES NOT HOLD" not in found[".md"]
    assert f"Each system less {'ResNet34' if task == 'quality' else 'ResPAM U-Net'}:" in found[".md"]
    assert "nan" not in re.sub(r"data:image[^\"]+", "", found[".html"]).lower().replace("nanum", "")
    page = Page(found[".html"])
    assert page.unnamed == 0
    assert page.pictures == found[".md"].count("](images/")
    assert all(source.startswith("data:image/png;base64,") for source in page.loaded)
    assert len(page.ids) == len(set(page.ids))
    assert "prefers-color-scheme:dark" in found[".html"]
    rows = list(csv.DictReader(found[".csv"].splitlines()))
    metric = {"quality": "accuracy", "segmentation": "mean_dice"}[task]
    (line,) = [line for line in rows if (line["system"], line["quantity"]) == (SYSTEMS[task][0], metric)]
    title = {"quality": "ResNet34", "segmentation": "ResPAM U-Net"}[task]
    assert row(found[".md"], title)[2].startswith(f"{100 * float(line['value']):.1f} [")
    assert str(tmp_path) not in found[".md"] + found[".html"] + found[".csv"]


def test_what_was_not_measured_is_not_in_the_tables(data, tmp_path):
    done = {("resnet34", 0), ("resnet34", 1), ("resnet34_parb", 0)}
    plan = benchmark(tmp_path / "b", data, done=lambda run: (run.system, run.seed) in done)
    (failed,) = [run for run in runs_of(tmp_path / "b", plan) if (run.system, run.seed) == ("resnet34_parb", 1)]
    failed.folder.mkdir()
    failed.note(failed="no memory")
    text = report(tmp_path / "b")[".md"]
    assert row(text, "ResNet34")[1] == "2 of 2"
    assert row(text, "ResNet34 + PARB")[1] == "1 of 2, 1 failed"
    for title, reported in (
        ("ResNet34 + KAN", "89.5 / 92.5 / 86.0 / 88.9"),
        ("ResNet34 + PARB + KAN", "91.5 / 93.7 / 89.0 / 91.3"),
    ):
        assert row(text, title)[1:] == ["not run"] * 5 + [reported]
    assert "3 of 6 trainings are done" in text
    assert "runs along a free side" in text
    assert "What it costs" not in text


def test_runs_that_were_cut_short_say_so(data, tmp_path):
    benchmark(tmp_path / "short", data, values={"epochs": 4})
    benchmark(tmp_path / "whole", data, values={"epochs": 3})
    assert "Cut short: 6 of these runs ended after 3 of 4 epochs" in report(tmp_path / "short")[".md"]
    assert "Cut short" not in report(tmp_path / "whole")[".md"]


@pytest.mark.usefixtures("few_suffice")
def test_runs_that_learnt_nothing_say_so(data, tmp_path):
    """A loss that never leaves a coin's is a failed training, not a bad network."""
    plan = benchmark(tmp_path / "b", data)
    assert "Did not learn" not in report(tmp_path / "b")[".md"]
    (run,) = [run for run in runs_of(tmp_path / "b", plan) if (run.system, run.seed) == ("resnet34_kan", 1)]
    (run.folder / "curves.csv").write_text("epoch,train_loss,auc\n1,0.8,0.5\n2,0.7,0.5\n3,0.71,0.5\n")
    told = "ResNet34 + KAN (1 of 2 runs, lowest training loss 0.70); a coin's loss is 0.69."
    assert f"Did not learn under this recipe: {told}" in report(tmp_path / "b")[".md"]
    (run.folder / "curves.csv").write_text("epoch,train_loss,auc\n1,0.6,0.5\n2,0.7,0.5\n")
    assert "Did not learn" not in report(tmp_path / "b")[".md"], "its best weights are kept, not its last"
    for run in runs_of(tmp_path / "b", plan):
        (run.folder / "curves.csv").write_text("epoch,train_loss,auc\n1,0.7,0.5\n")
    assert re.search("Highest of . systems by AUC: .*, though it did not learn", report(tmp_path / "b")[".md"])


def test_what_a_network_had_beside_its_width_is_told(data, tmp_path):
    plan = benchmark(tmp_path / "b", data, compact=False)
    for run in runs_of(tmp_path / "b", plan):
        run.configure(BENCHMARK_SYSTEMS[run.system].overrides(compact=False))
    line = next(line for line in report(tmp_path / "b")[".md"].splitlines() if "Configuration:" in line)
    told = "networks of the published width; `kan_gain` 0.2 in ResNet34 + KAN; all else as in the bundle."
    assert line == f"- Configuration: {told}"


def test_nothing_run_yet(data, tmp_path):
    benchmark(tmp_path / "b", data, done=lambda run: False)
    found = report(tmp_path / "b")
    assert "Not run yet" in found[".md"]
    assert len(list(csv.reader(found[".csv"].splitlines()))) == 1


def analysis(out: Path, reference: str) -> Analysis:
    (test,) = read_benchmark(out).tests
    return Analysis("quality", test, reference, resamples=20)


def test_the_numbers_are_those_of_the_files(data, tmp_path):
    plan = benchmark(tmp_path / "b", data)
    folder = tmp_path / "b" / "resnet34"
    files = [folder / f"seed_{seed}" / "tests" / "test" / "metrics.json" for seed in plan.seeds]
    seeds = [json.loads(file.read_text())["metrics"]["accuracy"]["value"] for file in files]
    estimate = analysis(tmp_path / "b", "resnet34").estimate("resnet34", "accuracy")
    assert estimate.value == pytest.approx(np.mean(seeds))
    assert estimate.between_seeds == pytest.approx(np.std(seeds, ddof=1))
    assert estimate.low <= estimate.value <= estimate.high


def test_no_two_systems_share_the_drawing_of_their_seeds(data, tmp_path):
    """Shared, their trainings would be paired by number: two systems with equal seeds would never differ."""
    plan = benchmark(tmp_path / "b", data)
    runs = {(run.system, run.seed): run for run in runs_of(tmp_path / "b", plan)}
    for seed in plan.seeds:
        result = runs["resnet34", seed].tests("test") / "per_image.csv"
        shutil.copy(result, runs["resnet34_kan", seed].tests("test") / "per_image.csv")
    found = analysis(tmp_path / "b", "resnet34").difference("resnet34_kan", "resnet34", "accuracy")
    assert found.value == 0
    assert found.low < 0 < found.high


def test_an_interval_does_not_depend_on_which_other_systems_there_are(data, tmp_path):
    benchmark(tmp_path / "b", data)
    everyone = analysis(tmp_path / "b", "resnet34")
    alone = replace(everyone, test=replace(everyone.test, entrants=[everyone.entrant("resnet34_kan")]))
    for metric in ("auc_incomplete", "accuracy"):
        assert alone.estimate("resnet34_kan", metric) == everyone.estimate("resnet34_kan", metric)


def test_the_reference_can_be_chosen(data, tmp_path):
    benchmark(tmp_path / "b", data)
    table = differences_table(analysis(tmp_path / "b", "resnet34_kan"))
    assert table is not None
    assert table.caption.startswith("Each system less ResNet34 + KAN:")
    assert [row[0] for row in table.rows] == ["ResNet34", "ResNet34 + PARB", "breast runs along a free side"]
    assert differences_table(analysis(tmp_path / "b", "not run")) is None


@pytest.mark.usefixtures("few_suffice")
def test_a_difference_is_established_only_if_it_is_for_so_many_comparisons(data, tmp_path, monkeypatch):
    """An interval that leaves zero out is not enough: here each of three comparisons has a p of 0.03, or of 0.0165."""
    benchmark(tmp_path / "b", data)
    for p, adjusted, verdict in ((0.03, "0.09", "no"), (0.0165, "< 0.05", "yes")):
        sure = Difference(0.1, 0.05, 0.15, p)
        monkeypatch.setattr("monai_mammo.benchmark.statistics.difference", lambda *_, sure=sure: sure)
        text = report(tmp_path / "b")[".md"]
        differences = [line for line in text.splitlines() if "+10.0 [+5.0, +15.0] |" in line]
        assert [line.split(" | ")[3:5] for line in differences] == [[adjusted, verdict]] * 3
        said = [line for line in text.splitlines() if "the paper reports" in line]
        assert said
        assert all(("not established" in line) == (verdict == "no") for line in said)


@pytest.mark.usefixtures("few_suffice")
def test_the_highest_of_several_systems_is_not_called_better_than_chance_allows(data, tmp_path, monkeypatch):
    benchmark(tmp_path / "b", data)
    for p, told in ((0.03, True), (0.01, False)):
        sure = Difference(0.1, 0.05, 0.15, p)
        monkeypatch.setattr("monai_mammo.benchmark.statistics.difference", lambda *_, sure=sure: sure)
        first, second, third = analysis(tmp_path / "b", "resnet34").ranked()
        for reference, rival in (
            (first.name, second),
            (second.name, second),
            (third.name, third),
            ("resnet34_parb_kan", second),  # which has not run
        ):
            line = headline(analysis(tmp_path / "b", reference))
            assert line.startswith(f"Highest of 3 systems by AUC: {first.title}, ")
            assert (f"; its lead over {rival.title} is not established" in line) == told


def test_several_benchmarks_and_tests_make_one_report(data, tmp_path):
    further = shutil.copytree(data, tmp_path / "further")
    benchmark(tmp_path / "runs" / "a", data, test_data={"further": str(further)})
    benchmark(tmp_path / "runs" / "b", data, "segmentation", done=lambda run: run.seed == 0)
    text = report(tmp_path / "runs")[".md"]
    assert text.count("\n### Results") == 3
    assert "Nothing of it was trained on" in text
    assert {f"{name}_results" for name in ("a", "a_further", "b")} == set(re.findall(r"\w+_results", text))


@pytest.mark.usefixtures("few_suffice")
def test_a_test_of_one_class_is_not_ranked_by_what_needs_two(data, tmp_path):
    """A folder of incomplete films alone has no ROC curve, but every other number."""
    further = shutil.copytree(data, tmp_path / "further")
    datalist = further / "quality" / "dataset.json"
    document = json.loads(datalist.read_text())
    document["test"] = [entry for entry in document["test"] if entry["label"] == 1]
    datalist.write_text(json.dumps(document))
    benchmark(tmp_path / "b", data, test_data={"further": str(further)})
    text = report(tmp_path / "b")[".md"]
    short, tested = text.split("## In short")[1].split("\n## ")[0], text.split(", tested on ")[-1]
    assert re.search(r"tested on .*\*\* AUC is not defined on these images: systems are not ranked\.", short)
    assert len(re.findall("Highest of 3 systems by AUC", short)) == 1
    assert "b_further_confusion" in tested
    assert not {f"b_further_{name}" for name in ("roc", "results")} & set(re.findall(r"b_further_\w+", text))
    assert row(tested.split("### Compared")[1], "ResNet34 + PARB")[1:5] == ["—"] * 4


def test_an_edited_result_is_told(data, tmp_path):
    benchmark(tmp_path / "b", data)
    file = tmp_path / "b" / "resnet34" / "seed_1" / "tests" / "test" / "metrics.json"
    document = json.loads(file.read_text())
    document["metrics"]["accuracy"]["value"] = 0.99
    file.write_text(json.dumps(document))
    (told,) = [check for check in checks(analysis(tmp_path / "b", "resnet34"), "patient") if not check.passed]
    assert (told.what, told.detail) == ("every metrics.json is what its per_image.csv gives", "resnet34, seed 1")


def test_results_of_other_images_are_refused(data, tmp_path):
    benchmark(tmp_path / "b", data)
    file = tmp_path / "b" / "resnet34" / "seed_0" / "tests" / "test" / "per_image.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], *reversed(lines[1:])]))
    with pytest.raises(MammogramError, match=r"per_image\.csv.*not the datalist's entries"):
        read_benchmark(tmp_path / "b")


@pytest.mark.parametrize(("one", "other"), [("training", "validation"), ("training", "test"), ("validation", "test")])
def test_a_patient_on_two_sides_is_told(data, tmp_path, one, other):
    data = shutil.copytree(data, tmp_path / "copy")
    datalist = data / "quality" / "dataset.json"
    document = json.loads(datalist.read_text())
    document[one].append(document[other][0])
    datalist.write_text(json.dumps(document))
    benchmark(tmp_path / "b", data, done=lambda run: run.system == "resnet34")
    (told,) = [check for check in checks(analysis(tmp_path / "b", "resnet34"), "patient") if not check.passed]
    assert (told.what, told.detail) == ("no patient is in two sections", "1 are")


def further_data(data: Path, out: Path, patients_of: str, name: str) -> Path:
    """Prepared data of this name whose test patients are those of a section of `data`."""
    out = shutil.copytree(data, out)
    document = json.loads((out / "quality" / "dataset.json").read_text())
    document |= {"test": document[patients_of], patients_of: [], "name": name}
    (out / "quality" / "dataset.json").write_text(json.dumps(document))
    return out


@pytest.mark.parametrize("section", ["training", "validation"])
def test_further_test_data_whose_patients_are_trained_on_are_refused(data, tmp_path, section):
    """As two preparations of one data set with different seeds have them."""
    name = json.loads((data / "quality" / "dataset.json").read_text())["name"]
    further = further_data(data, tmp_path / "further", section, f"{name}, 16 samples a mammogram")
    with pytest.raises(MammogramError, match=r"further.*[12] of its test patients are trained on.*--seed"):
        benchmark(tmp_path / "b", data, test_data={"further": str(further)})
    assert not (tmp_path / "b").exists()


def test_what_a_report_says_of_further_test_data_is_what_their_patients_are(data, tmp_path):
    further = shutil.copytree(data, tmp_path / "further")
    other = further_data(data, tmp_path / "other", "training", "another hospital's")
    benchmark(tmp_path / "b", data, test_data={"further": str(further), "other": str(other)})
    text = report(tmp_path / "b")[".md"]
    assert text.count("Nothing of it was trained on.") == 1
    assert text.count("By its name it is another data set than the one trained on.") == 1
    assert "DOES NOT HOLD" not in text
    kept = tmp_path / "b" / "datalists" / "test.json"
    document = json.loads(kept.read_text())
    document["validation"] += document["test"][:1]
    kept.write_text(json.dumps(document))  # as no plan is settled any more
    text = report(tmp_path / "b")[".md"]
    assert "Nothing of it was trained on" not in text
    assert "**1 of these patients were trained on or chose the epoch.**" in text
    assert "| no patient tested was trained on or chose the epoch | DOES NOT HOLD | 1 are |" in text
    assert "| no patient tested was trained on or chose the epoch | holds | another data set |" in text


def test_cases_without_their_images_are_said_to_be_missing(data, tmp_path):
    data = shutil.copytree(data, tmp_path / "copy")
    benchmark(tmp_path / "b", data, "segmentation")
    (test,) = read_benchmark(tmp_path / "b").tests
    assert cases.sheet(test.finished[:2], test.entries, data / "segmentation_whole", whole=True) is not None
    shutil.rmtree(data)
    assert cases.sheet(test.finished[:2], test.entries, data / "segmentation_whole", whole=True) is None


def test_a_folder_without_a_benchmark_is_refused(tmp_path):
    with pytest.raises(MammogramError, match="no benchmark in it"):
        write_report([tmp_path], tmp_path)


def test_the_cases_shown_are_the_best_the_middle_and_the_worst():
    def record(tp: int, lesion: int = 10) -> dict:
        return {"tp": tp, "fp": 0, "fn": lesion - tp}

    assert cases.chosen([record(2), record(9), record(0, 0), record(5)]) == {"best": 1, "median": 3, "worst": 0}
    assert cases.chosen([record(4)]) == {"best": 0}
    assert cases.chosen([record(0, 0)]) == {}


def test_texts_cannot_break_the_page():
    table = Table(["a|b", "<i>"], [["<script>alert(1)</script>", "1 [0, 2]"]])
    assert "a\\|b" in markdown([table], "pictures")
    assert "<script>" not in html([table], "</title><script>")


@pytest.mark.parametrize(("task", "headline"), [("quality", "AUC"), ("segmentation", "Dice, mean over images")])
def test_a_model_card_gives_every_metric_and_the_subgroups_of_one_set_of_weights(data, tmp_path, task, headline):
    datalist = data / ("quality" if task == "quality" else "segmentation_roi")
    records = records_of(task, load_datalist(datalist, "test"), seed=0)
    (QualityReport if task == "quality" else SegmentationReport)(output_dir=tmp_path, resamples=20).write(records)
    written = card(task, "A model", {datalist: tmp_path}, resamples=100)
    patients = len({record["patient"] for record in records})
    # What else the patients were used for, a datalist cannot tell.
    assert f"{len(records)} test entries of {patients} patients, none of whom was trained on.\n" in written
    assert re.search(rf"\| {headline} \| \d+\.\d \[\d+\.\d, \d+\.\d\] \|", written)
    assert "| view: CC |" in written
    assert "| view: MLO |" in written


def test_what_every_draw_gives_alike_has_no_interval(data, tmp_path):
    """All or none found of a few patients says little of the next one; a bootstrap would be certain of it."""
    records = records_of("quality", load_datalist(data / "quality", "test"), seed=0)
    for record in records:
        record["probability"] = 0.9 if record["label"] or record["patient"] == records[0]["patient"] else 0.1
    QualityReport(output_dir=tmp_path, resamples=20).write(records)
    written = card("quality", "A model", {data / "quality": tmp_path}, resamples=100)
    assert len({record["patient"] for record in records if record["label"]}) > 1
    assert "| Recall | 100.0 [—] |" in written
    assert not re.search(r"\[(\S+), \1\]", written)
    assert re.search(r"\| Accuracy \| \d\d\.\d \[\d+\.\d, 100\.0\] \|", written)
    for caption in (
        "distances as named. [—]: no interval, because",
        "little is known of them. [—]: no interval, because",
    ):
        assert caption in written


def test_two_seeds_that_are_each_alike_in_every_draw_have_an_interval(data, tmp_path):
    plan = benchmark(tmp_path / "b", data)
    for run, share in zip(
        [r for r in runs_of(tmp_path / "b", plan) if r.system == "resnet34"], (0.9, 0.1), strict=True
    ):
        records = records_of("quality", load_datalist(data / "quality", "test"), seed=0)
        QualityReport(output_dir=run.tests("test"), resamples=20).write([{**r, "probability": share} for r in records])
    found = analysis(tmp_path / "b", "resnet34").estimate("resnet34", "recall_incomplete")
    assert found.value == 0.5
    assert found.low < found.high


@pytest.mark.parametrize("task", ["quality", "segmentation"])
def test_records_give_the_same_report_without_weights_masks_and_logs(data, tmp_path, task):
    benchmark(tmp_path / "b", data, task)
    for name in ("model.pt", "train.log", "training/curves.csv"):
        file = next(tmp_path.glob("b/*/seed_0")) / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("large")
    (kept,) = keep_records([tmp_path / "b"], tmp_path / "kept")
    assert report(kept) == report(tmp_path / "b")
    left = {file.name for file in kept.rglob("*") if file.is_file()}
    assert not left & {"model.pt", "train.log"}
    assert not any(file.suffix == ".png" and file.name != "cases.png" for file in kept.rglob("*"))
    assert not list(kept.rglob("training"))


def test_records_are_not_copied_onto_themselves_nor_two_of_one_name(data, tmp_path):
    for folder in (tmp_path / "b", tmp_path / "other" / "b"):
        benchmark(folder, data)
    before = sorted(tmp_path.rglob("*"))
    for folders, out in (([tmp_path / "b"], tmp_path), ([tmp_path / "b", tmp_path / "other"], tmp_path / "kept")):
        with pytest.raises(MammogramError):
            keep_records(folders, out)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("few_suffice")
def test_a_claim_about_a_system_that_was_trained_once_says_so(data, tmp_path):
    benchmark(tmp_path / "b", data, done=lambda run: run.seed in (0, None) or run.system == "resnet34")
    claims = [line for line in report(tmp_path / "b")[".md"].splitlines() if "the paper reports" in line]
    assert claims
    assert all("trained once)" in claim and "ResNet34 trained once" not in claim for claim in claims)


@pytest.mark.usefixtures("few_suffice")
@pytest.mark.parametrize(("p", "sure"), [(0.01, "established for these trainings alone"), (0.9, "not established")])
def test_a_lead_of_systems_that_were_trained_once_says_so(data, tmp_path, monkeypatch, p, sure):
    """An interval and a p of one training say nothing of what the next would have given."""
    benchmark(tmp_path / "b", data, done=lambda run: run.seed in (0, None) or run.system == "resnet34_kan")
    monkeypatch.setattr("monai_mammo.benchmark.statistics.difference", lambda *_: Difference(0.1, 0.05, 0.15, p))
    found = analysis(tmp_path / "b", "resnet34")
    first = found.ranked()[0]
    pair = [entrant for entrant in (first, found.entrant("resnet34")) if entrant.name != "resnet34_kan"]
    once = " and ".join(dict.fromkeys(entrant.title for entrant in pair))
    assert f"{sure} ({once} trained once)" in headline(found)
    table = differences_table(found)
    verdict = "yes" if p < 0.05 else "no"
    assert [row[4] for row in table.rows] == [f"{verdict} (trained once)"] * 3, "the reference was"
    assert "Trained once:" in table.caption
    found = analysis(tmp_path / "b", "resnet34_kan")
    rows = {row[0]: row[4] for row in differences_table(found).rows}
    assert rows["ResNet34"] == f"{verdict} (trained once)"
    assert rows["breast runs along a free side"] == verdict, "nothing of it is trained"


@pytest.mark.usefixtures("few_suffice")
def test_the_paper_s_claims_are_about_its_own_network_and_not_the_light_one(data, tmp_path, monkeypatch):
    monkeypatch.setitem(SYSTEMS, "segmentation", ("unet", "respam_unet_light"))
    benchmark(tmp_path / "b", data, task="segmentation")
    assert "the paper reports" not in report(tmp_path / "b")[".md"]
    monkeypatch.setitem(SYSTEMS, "segmentation", ("unet", "respam_unet", "respam_unet_light"))
    benchmark(tmp_path / "c", data, task="segmentation")
    text = report(tmp_path / "c")[".md"]
    (claim,) = [line for line in text.splitlines() if "the paper reports" in line]
    assert claim.startswith("- ResPAM U-Net against U-Net")
    assert row(text, "ResPAM U-Net")[-1] == "94.2 / 90.8"
    assert "94.2" not in row(text, "ResPAM U-Net, first level at half size")[-1]


def test_records_do_not_say_where_the_data_lie(data, tmp_path):
    benchmark(tmp_path / "b", data)
    (kept,) = keep_records([tmp_path / "b"], tmp_path / "kept")
    entries = json.loads((kept / "datalists" / "test.json").read_text())["test"]
    assert entries
    assert all("/" not in entry["image"] for entry in entries)


@pytest.mark.parametrize("task", VALIDATION)
def test_the_curves_are_of_the_metric_that_chooses_the_epoch(task):
    config = config_of(find_bundle(task), "train.yaml")
    assert list(config["validate"]["key_metric"]) == [VALIDATION[task]]
