"""The numbers of a model card: one set of weights on held-out patients, with intervals, and by subgroup."""

from __future__ import annotations

import json
from pathlib import Path

from monai_mammo.benchmark import tables
from monai_mammo.benchmark.analysis import Analysis, subgroups
from monai_mammo.benchmark.page import Block, Heading, Table, Text, markdown
from monai_mammo.benchmark.results import Entrant, Test, read_records
from monai_mammo.benchmark.statistics import RESAMPLES
from monai_mammo.datasets.datalist import Task


def card(
    task: Task,
    title: str,
    tests: dict[Path, Path],
    resamples: int = RESAMPLES,
) -> str:
    """Markdown tables of one model's results.

    Args:
        task: "quality" or "segmentation".
        title: of the model.
        tests: by the folder of a datalist, whose test section was tested on, the folder that the bundle's evaluation
            wrote.
        resamples: draws of the patients.

    Raises:
        MammogramError: results are illegible or not of the datalist's entries.
    """
    blocks: list[Block] = []
    for datalist, results in tests.items():
        document = json.loads((datalist / "dataset.json").read_text())
        entries = document["test"]
        entrant = Entrant("model", title, {0: read_records(results, entries)}, {0: results}, "1 of 1")
        analysis = Analysis(
            task, Test("test", document["name"], "test", entries, document, [entrant]), "model", resamples
        )
        patients = len({entry["patient"] for entry in entries})
        blocks += [
            Heading(3, f"{title}: {document['name']}"),
            Text(f"{len(entries)} test entries of {patients} patients, none of whom was trained on."),
            tables.metrics_table(analysis, "model"),
        ]
        groups: Table | None = tables.groups_table(subgroups(analysis, "model"), title)
        blocks += [groups] if groups else []
    return markdown(blocks, "")
