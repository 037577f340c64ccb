"""Many images in one run: one that cannot be used costs its own result only, and what is done is on disk."""

import csv

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged
from PIL import Image
from torch.utils.data import DataLoader

from monai_mammo.batch import QualityTable, UsableImages
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.readers import MammogramReader

LOAD = Compose([LoadImaged("image", reader=MammogramReader, ensure_channel_first=True)])


def listed(folder, *names):
    return [{"image": str(folder / name)} for name in names]


def test_what_cannot_be_used_is_left_out_and_named_with_reason_and_remedy(tmp_path, caplog):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "DICOMDIR").write_bytes(b"no image")
    (tmp_path / "torn.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    images = UsableImages(listed(tmp_path, "DICOMDIR", "a.png", "torn.png", "b.png"), LOAD)
    assert [image["image"].shape for image in images] == [(1, 8, 8)] * 2
    *each, last = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[1].strip() for line in each] == [str(tmp_path / "DICOMDIR"), str(tmp_path / "torn.png")]
    assert "Give one of these" in each[0]
    assert "2 of 4 files have no result" in last


def test_a_folder_of_which_nothing_can_be_used_is_an_error(tmp_path):
    (tmp_path / "a").write_bytes(b"no image")
    with pytest.raises(MammogramError, match="not one of the 1 files"):
        list(UsableImages(listed(tmp_path, "a"), LOAD))


def test_a_worker_with_nothing_usable_does_not_cost_the_others_their_results(tmp_path):
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "b.png")
    (tmp_path / "a").write_bytes(b"no image")
    images = UsableImages(listed(tmp_path, "a", "b.png"), LOAD)  # the first worker gets a, the second b.png
    assert [image["image"].shape for image in DataLoader(images, batch_size=None, num_workers=2)] == [(1, 8, 8)]


def test_a_fault_of_the_program_is_no_unusable_image(tmp_path):
    def fail(_):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        list(UsableImages(listed(tmp_path, "a"), fail))


def test_the_table_has_a_header_survives_commas_and_keeps_what_a_broken_run_has_done(tmp_path):
    names = ["Müller, Anna/R CC.dcm", "b.dcm"]

    def step(engine, name):
        if name is None:
            raise MammogramError("c.dcm", "it broke", "Mend it")
        image = MetaTensor(torch.zeros(1, 2, 2), meta={"filename_or_obj": str(tmp_path / name)})
        return [{"image": image, "pred": torch.tensor([0.25, 0.75] if "," in name else [0.9, 0.1])}]

    engine = Engine(step)
    QualityTable(tmp_path / "out", tmp_path).attach(engine)
    with pytest.raises(MammogramError, match="it broke"):
        engine.run([*names, None], epoch_length=3)
    with (tmp_path / "out" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == names
    assert [row["verdict"] for row in rows] == ["incomplete", "complete"]
    assert float(rows[0]["incomplete"]) == 0.75


def test_a_verdict_of_no_number_ends_the_run_and_does_not_stand_as_complete(tmp_path):
    def step(engine, name):
        image = MetaTensor(torch.zeros(1, 2, 2), meta={"filename_or_obj": str(tmp_path / name)})
        return [{"image": image, "pred": torch.full((2,), torch.nan)}]

    engine = Engine(step)
    QualityTable(tmp_path, tmp_path).attach(engine)
    with pytest.raises(MammogramError, match=r"a\.png: the network gives no numbers"):
        engine.run(["a.png"])
    assert "complete\n" not in (tmp_path / "predictions.csv").read_text().partition("\n")[2]
