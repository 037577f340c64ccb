"""The running server, asked as 3D Slicer's own client asks it and as a careless or hostile one does."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
import torch
from pydicom.uid import UID

from .conftest import LESION, QUALITY, SEGMENTATION, Server, blob, write_dicom, write_png

pytestmark = pytest.mark.slow
CT = UID("1.2.840.10008.5.1.4.1.1.2")
TOMOSYNTHESIS = UID("1.2.840.10008.5.1.4.1.1.13.1.3")
SLICER = {"result_extension": ".nrrd", "result_dtype": "uint8"}


@pytest.fixture(scope="module")
def slicer() -> ModuleType:
    """The client module that runs inside 3D Slicer; it comes with MONAI Label."""
    file = Path(sys.prefix) / "monailabel/plugins/slicer/MONAILabel/MONAILabelLib/client.py"
    if not file.exists():
        pytest.skip("MONAI Label's Slicer plugin is not installed")
    spec = importlib.util.spec_from_file_location("slicer_client", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def client(slicer: ModuleType, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Slicer's client, connected."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return slicer.MONAILabelClient(server.url, str(tmp_path), "a reader")


def read(path: str | Path) -> tuple[np.ndarray, SimpleITK.Image]:
    """A mask's (rows, columns) and the image it was read from."""
    image = SimpleITK.ReadImage(str(path))
    return SimpleITK.GetArrayFromImage(image)[0], image


def assert_same_place(mask: SimpleITK.Image, source: Path) -> None:
    """The mask has the geometry that ITK, and so Slicer, gives the source."""
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(source))
    reader.ReadImageInformation()
    axes = reader.GetDimension()
    assert mask.GetSize() == (*reader.GetSize()[:2], 1)
    assert mask.GetSpacing()[:axes] == pytest.approx(reader.GetSpacing(), rel=1e-5)
    assert mask.GetOrigin()[:axes] == pytest.approx(reader.GetOrigin(), rel=1e-5)
    direction = np.reshape(mask.GetDirection(), (3, 3))[:axes, :axes]
    np.testing.assert_allclose(direction.flatten(), reader.GetDirection(), atol=1e-6)


def box_of(mask: np.ndarray) -> list[int]:
    """First and last row and column of a mask."""
    rows, columns = np.nonzero(mask)
    return [int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())]


def write_volume(path: Path, pixels: np.ndarray, turned: bool = False) -> Path:
    """The pixels as a volume of one slice, with a place in the world; `turned` gives it oblique axes."""
    image = SimpleITK.GetImageFromArray((pixels[None] * 255).astype(np.uint8))
    image.SetSpacing((0.3, 0.25, 1.0))
    image.SetOrigin((-12.5, 40.0, 7.0))
    if turned:
        image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    SimpleITK.WriteImage(image, str(path))
    return path


def write_label(path: Path, mask: np.ndarray) -> Path:
    """A mask as a volume of one slice without a place of its own."""
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(mask[None].astype(np.uint8)), str(path))
    return path


def write_images(studies: Path) -> dict[str, Path]:
    """The same lesion in every format that the app reads, by id."""
    pixels, _ = blob()
    return {
        "dicom": write_dicom(studies / "dicom.dcm", pixels),
        "inverse": write_dicom(studies / "inverse", pixels, photometric="MONOCHROME1"),
        "jpeg2000": write_dicom(studies / "jpeg2000.dcm", pixels, syntax="1.2.840.10008.1.2.4.90"),
        "picture": write_png(studies / "picture.png", pixels),
        "nifti": write_volume(studies / "nifti.nii.gz", pixels),
        "turned": write_volume(studies / "turned.nrrd", pixels, turned=True),
    }


IMAGES = ("dicom", "inverse", "jpeg2000", "picture", "nifti", "turned")


@pytest.fixture(scope="module")
def images(server: Server) -> dict[str, Path]:
    """See `write_images`; they are dropped into the folder of the running server."""
    return write_images(server.studies)


def test_info_lists_the_models_as_slicer_wants_them_and_the_unusable_files(server: Server, client: Any) -> None:
    info = client.info()
    models = info["models"]
    assert {name: model["type"] for name, model in models.items()} == {
        QUALITY: "segmentation",
        SEGMENTATION: "segmentation",
        LESION: "deepgrow",
    }
    assert set(info["labels"]) == {"complete", "incomplete", "tumour"}
    assert set(info["trainers"]) == set(models)
    assert "random" in info["strategies"]
    notes = next(problem for problem in info["datastore"]["unreadable"] if problem["file"] == "notes.dcm")
    assert notes["reason"]
    assert notes["remedy"]


@pytest.mark.parametrize("image", IMAGES)
def test_a_segmentation_overlays_its_image_to_the_pixel(
    server: Server, client: Any, images: dict[str, Path], image: str
) -> None:
    file, params = client.infer(SEGMENTATION, image, dict(SLICER))
    mask, itk = read(file)
    lesion = blob()[1]
    assert mask.dtype == np.uint8
    assert_same_place(itk, images[image])
    overlap = np.logical_and(mask, lesion).sum() / np.logical_or(mask, lesion).sum()
    assert overlap > 0.9, f"{box_of(mask)} instead of {box_of(lesion)}"
    assert params["label_names"] == {"tumour": 1}
    assert params["tumour"]["pixels"] == np.count_nonzero(mask)


@pytest.mark.parametrize(
    "marked",
    [
        {"foreground": [[24, 40, 0]], "background": [], "label": "tumour"},
        {"foreground": [[20, 30, 0], [43, 53, 0]]},
        {"roi": [43, 20, 53, 30, 0, 0]},
        {"box": [30, 20, 54, 44]},
        {"point": [40, 24]},
    ],
    ids=["Slicer's point", "Slicer's points", "Slicer's ROI", "box", "point"],
)
def test_a_marked_place_makes_the_crop_in_which_the_lesion_is_segmented(
    server: Server, client: Any, images: dict[str, Path], marked: dict[str, Any]
) -> None:
    file, params = client.infer(LESION, "dicom", {**SLICER, **marked})
    mask, itk = read(file)
    lesion = blob()[1]
    assert_same_place(itk, images["dicom"])
    assert mask[40, 24] == 1
    assert np.logical_and(mask, lesion).sum() > 0.9 * mask.sum()
    assert params["label_names"] == {"tumour": 1}


def test_what_lies_outside_the_marked_place_stays_empty(server: Server, client: Any, images: dict[str, Path]) -> None:
    file, _ = client.infer(LESION, "dicom", {**SLICER, "point": [48, 24]})
    whole, _ = client.infer(SEGMENTATION, "dicom", dict(SLICER)), None
    mask = read(file)[0]
    assert mask.any()
    assert not mask[:, 40:].any(), "the lesion's far arm lies outside the crop"
    assert read(whole[0])[0][:, 40:].any()


def test_the_verdict_on_quality_comes_with_the_breasts_outline_named_by_it(
    server: Server, client: Any, images: dict[str, Path]
) -> None:
    file, params = client.infer(QUALITY, "dicom", dict(SLICER))
    mask, itk = read(file)
    quality = params["quality"]
    assert_same_place(itk, images["dicom"])
    assert params["label_names"] == {quality["verdict"]: 1}
    assert quality["verdict"] == ("incomplete" if quality["probability_incomplete"] > 0.5 else "complete")
    assert quality["probability_incomplete"] + quality["probability_complete"] == pytest.approx(1, abs=1e-5)
    assert set(np.unique(mask)) == {0, 1}
    assert mask[60, 10] == 1
    assert mask[2, 85] == 0


@pytest.mark.parametrize(("extension", "dtype"), [(".nii", "int16"), (".nii.gz", "uint8"), (".nrrd", "float32")])
def test_the_masks_format_is_the_one_asked_for(
    server: Server, client: Any, images: dict[str, Path], extension: str, dtype: str
) -> None:
    file, _ = client.infer(SEGMENTATION, "nifti", {"result_extension": extension, "result_dtype": dtype})
    mask, itk = read(file)
    assert file.endswith(extension)
    assert mask.dtype == np.dtype(dtype)
    assert_same_place(itk, images["nifti"])


def test_output_json_gives_the_verdict_alone(server: Server, images: dict[str, Path]) -> None:
    answer = server.http.post(f"/infer/{QUALITY}", params={"image": "picture", "output": "json"})
    assert answer.json()["quality"]["verdict"] in ("complete", "incomplete")


def test_a_session_of_the_users_own_image_is_segmented(server: Server, client: Any, tmp_path: Path) -> None:
    own = write_volume(tmp_path / "own.nii.gz", blob()[0])
    session = client.create_session(str(own))["session_id"]
    file, _ = client.infer(SEGMENTATION, "", dict(SLICER), session_id=session)
    assert_same_place(read(file)[1], own)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"foreground": []},
        {"foreground": [[1]]},
        {"foreground": "24,40"},
        {"foreground": {"x": 1}},
        {"point": [1]},
        {"point": ["a", "b"]},
        {"point": [None, True]},
        {"box": [1, 2, 3]},
        {"roi": [1, 2, 3, 4]},
        {"point": [5, 5], "result_extension": "/../../x.nrrd"},
        {"point": [5, 5], "result_dtype": "object"},
    ],
)
def test_a_request_that_makes_no_sense_is_refused_with_a_remedy(
    server: Server, images: dict[str, Path], params: dict[str, Any]
) -> None:
    answer = server.infer(LESION, "dicom", **params)
    assert answer.status_code == 400
    assert answer.json()["remedy"]


@pytest.mark.parametrize("params", [{"point": [500, 24]}, {"box": [-9, -9, -2, -2]}, {"foreground": [[24, 40000, 0]]}])
def test_a_place_outside_the_image_is_refused_and_the_image_stays_usable(
    server: Server, images: dict[str, Path], params: dict[str, Any]
) -> None:
    answer = server.infer(LESION, "dicom", **params)
    assert answer.status_code == 422
    assert "outside" in answer.json()["reason"]
    assert server.infer(LESION, "dicom", point=[40, 24]).status_code == 200


def write_bad(studies: Path, kind: str) -> str:
    """A bad file of a kind in the studies folder; its path relative to it."""
    file = studies / "bad" / f"{kind}.dcm"
    write_dicom(file, blob()[0], syntax="1.2.840.10008.1.2.4.90" if kind == "torn" else "1.2.840.10008.1.2.1")
    if kind in ("truncated", "torn"):
        file.write_bytes(file.read_bytes()[:-1500])
    elif kind == "text":
        file.write_text("this is no DICOM file")
    elif kind == "huge":
        dataset = pydicom.dcmread(file)
        dataset.Rows = dataset.Columns = 65535
        dataset.save_as(file)
    else:
        dataset = pydicom.dcmread(file)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CT if kind == "ct" else TOMOSYNTHESIS
        dataset.Modality = "CT" if kind == "ct" else "MG"
        dataset.save_as(file)
    return f"bad/{kind}.dcm"


@pytest.mark.parametrize("kind", ["text", "truncated", "torn", "huge", "ct", "tomosynthesis"])
def test_a_bad_file_is_refused_by_name_listed_and_never_offered(server: Server, client: Any, kind: str) -> None:
    file = write_bad(server.studies, kind)
    answer = server.infer(QUALITY, f"bad-{kind}")
    assert answer.status_code == 422
    assert answer.json()["file"] == file
    assert answer.json()["reason"]
    assert answer.json()["remedy"]
    assert file in {problem["file"] for problem in client.info()["datastore"]["unreadable"]}
    assert all(client.next_sample("random", {"seed": seed})["id"] != f"bad-{kind}" for seed in range(10))


def test_unknown_models_strategies_and_broken_json_get_a_clear_answer(server: Server) -> None:
    assert server.infer("no_such_model", "film").status_code == 404
    assert server.http.post("/activelearning/no_such_strategy").status_code == 400
    assert server.http.post("/train/no_such_model").status_code == 404
    for model in ("x", ["x"]):  # the body may name another model than the address
        batch = server.http.post(f"/batch/infer/{QUALITY}", json={"model": model})
        assert (batch.status_code, batch.json()["reason"]) == (404, f"there is no model '{model}'")
    assert server.http.post(f"/train/{QUALITY}", params={"run_sync": True}).status_code == 400
    assert server.http.post(f"/infer/{QUALITY}", params={"image": "film"}, data={"params": "{"}).status_code == 400
    assert server.http.post(f"/infer/wsi/{QUALITY}", params={"image": "/etc/hostname"}).status_code == 404
    for path in ("/datastore/image?image=nobody", "/mammo/studies/1.2.3", f"/mammo/masks/{'x' * 300}"):
        gone = server.http.get(path)
        assert gone.status_code == 404
        assert gone.json()["remedy"] == "Reload the list of studies"
    assert server.is_up()


def test_next_sample_gives_slicer_a_file_it_can_load(server: Server, client: Any) -> None:
    sample = client.next_sample("random", {})
    assert Path(sample["path"]).is_relative_to(server.studies)
    assert Path(sample["path"]).is_file()
    assert Path(sample["name"]).suffix
    downloaded = server.http.get("/datastore/image", params={"image": sample["id"]})
    assert downloaded.content == Path(sample["path"]).read_bytes()


def test_a_label_saved_by_slicer_comes_back_equal_and_is_counted(server: Server, client: Any, tmp_path: Path) -> None:
    write_png(server.studies / "to-label.png", blob()[0])
    label = write_volume(tmp_path / "label.nii.gz", blob()[1] / 255)
    before = client.info()["datastore"]["completed"]
    saved = client.save_label("to-label", str(label), params={"label_info": [{"name": "tumour", "idx": 1}]})
    assert saved["label"] == "to-label"
    assert Path(client.download_label("to-label", "final")).read_bytes() == label.read_bytes()
    assert client.info()["datastore"]["completed"] == before + 1
    stored = client.datastore()["objects"]["to-label"]["labels"]["final"]
    assert stored["info"]["label_info"] == [{"name": "tumour", "idx": 1}]
    assert all(client.next_sample("random", {"seed": seed})["id"] != "to-label" for seed in range(20))


def test_a_second_window_cannot_replace_a_label_that_it_does_not_know(server: Server, tmp_path: Path) -> None:
    write_dicom(server.studies / "twice.dcm", blob()[0], patient=20)
    study = server.http.get("/datastore/image/info", params={"image": "twice"}).json()["StudyInstanceUID"]

    def known() -> int:
        (image,) = server.http.get(f"/mammo/studies/{study}").json()
        return int(image["revision"])

    def save(mask: np.ndarray, **params: Any) -> httpx.Response:
        content = write_label(tmp_path / "label.nii.gz", mask).read_bytes()
        return server.http.put(
            "/datastore/label",
            params={"image": "twice"},
            data={"params": json.dumps(params)},
            files={"label": ("label.nii.gz", content)},
        )

    drawn, empty = blob()[1], np.zeros(blob()[1].shape)
    opened = known()  # by two windows
    assert save(drawn, revision=opened).json()["revision"] == known() == 1
    assert save(drawn, revision=opened).json()["revision"] == known() == 1, "the answer to the first may be lost"
    refused = save(empty, revision=opened)
    assert refused.status_code == 409
    assert "another window" in refused.json()["reason"]
    kept = server.http.get("/datastore/label", params={"label": "twice", "tag": "final"}).content
    (tmp_path / "kept.nii.gz").write_bytes(kept)
    assert read(tmp_path / "kept.nii.gz")[0].any()
    assert server.http.get("/info/").json()["datastore"]["labels_to_deliver"] == 0
    assert save(empty, revision=known()).json()["revision"] == 2
    assert save(drawn).json()["revision"] == 3, "3D Slicer says nothing of revisions"
    assert save(drawn, revision="3").status_code == 400


def test_a_label_of_another_size_or_an_unsafe_tag_is_refused_and_nothing_is_written(
    server: Server, slicer: ModuleType, client: Any, tmp_path: Path
) -> None:
    turned = write_volume(tmp_path / "turned.nii.gz", blob()[1].T / 255)
    with pytest.raises(slicer.MONAILabelClientException) as refused:
        client.save_label("film", str(turned))
    assert "film.png" in refused.value.msg
    good = write_volume(tmp_path / "good.nii.gz", blob()[1] / 255)
    before = sorted(server.studies.parent.rglob("*"))
    for tag in ("../escaped", "a/b", "..", "/x/y"):
        with pytest.raises(slicer.MONAILabelClientException) as refused:
            client.save_label("film", str(good), tag=tag)
        assert "tag" in refused.value.msg
    assert sorted(server.studies.parent.rglob("*")) == before


def test_an_image_that_cannot_be_decoded_takes_no_label_and_is_listed(
    server: Server, slicer: ModuleType, client: Any, tmp_path: Path
) -> None:
    file = write_dicom(server.studies / "torn.dcm", blob()[0], patient=21, syntax="1.2.840.10008.1.2.4.90")
    file.write_bytes(file.read_bytes()[:-1500])
    with pytest.raises(slicer.MONAILabelClientException) as refused:
        client.save_label("torn", str(write_volume(tmp_path / "label.nii.gz", np.zeros(blob()[1].shape))))
    assert "torn.dcm" in refused.value.msg
    assert "torn.dcm" in [image["file"] for image in server.http.get("/info/").json()["datastore"]["unreadable"]]
    assert not list((server.studies / "labels" / "final").glob("torn*"))
    file.unlink()


def test_a_prediction_can_be_kept_as_a_label(server: Server, client: Any, images: dict[str, Path]) -> None:
    answer = server.infer(SEGMENTATION, "picture", save_label=True, label_tag="original")
    assert answer.status_code == 200
    mask, _ = read(client.download_label("picture", "original"))
    assert mask.any()
    kept = client.datastore()["objects"]["picture"]["labels"]["original"]["info"]
    assert kept["params"]["label_names"] == {"tumour": 1}


def test_a_verdict_of_an_annotator_is_kept(server: Server) -> None:
    route, image = "/datastore/image/info", {"image": "film"}
    for verdict, status in (("complete", 200), ("perhaps", 400)):
        answer = server.http.put(route, params=image, data={"info": json.dumps({"quality": verdict})})
        assert answer.status_code == status
    assert server.http.get(route, params=image).json()["quality"] == "complete"


def test_many_requests_at_once_get_each_its_own_answer(server: Server, images: dict[str, Path]) -> None:
    points = [[40, 24], [34, 40], [48, 24], [34, 30]] * 3

    def pixels(point: list[int]) -> bytes:
        return server.http.post(
            f"/infer/{LESION}", params={"image": "dicom", "output": "image"}, data={"params": f'{{"point": {point}}}'}
        ).content

    alone = {str(point): pixels(point) for point in points[:4]}
    with ThreadPoolExecutor(8) as together:
        answers = list(together.map(pixels, points))
    assert answers == [alone[str(point)] for point in points]


def test_new_weights_are_served_from_the_next_request_on(server: Server, client: Any, images: dict[str, Path]) -> None:
    server.weights.mkdir(exist_ok=True)
    silent = {"weight": torch.zeros(2, 3, 1, 1), "bias": torch.tensor([9.0, -9.0])}
    before = client.infer(SEGMENTATION, "picture", dict(SLICER))[1]["tumour"]["pixels"]
    torch.save(silent, server.weights / f"{SEGMENTATION}.pt")
    during = client.infer(SEGMENTATION, "picture", dict(SLICER))[1]["tumour"]["pixels"]
    (server.weights / f"{SEGMENTATION}.pt").unlink()
    after = client.infer(SEGMENTATION, "picture", dict(SLICER))[1]["tumour"]["pixels"]
    assert before == after > 0
    assert during == 0


def test_no_attribute_of_a_patient_reaches_the_log(server: Server, client: Any, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_dicom(server.studies / "logged.dcm", blob()[0], patient=21))
    client.infer(QUALITY, "logged", dict(SLICER))
    client.save_label("logged", str(write_label(tmp_path / "label.nii.gz", blob()[1])))
    client.info()
    client.next_sample("random", {})
    server.http.get("/dicomweb/studies", params={"PatientID": dataset.PatientID})
    log = server.log.read_text() + "".join(file.read_text() for file in server.log.parent.rglob("app.log"))
    assert "Serving" in log
    identifiers = ("StudyInstanceUID", "SOPInstanceUID", "AccessionNumber")
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", *identifiers):
        value = str(dataset.get(keyword, ""))
        assert not value or value not in log, keyword


def test_a_volume_of_several_slices_is_refused(server: Server) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((30, 40, 5), np.uint8), np.eye(4)), server.studies / "ct-volume.nii.gz")
    assert server.infer(SEGMENTATION, "ct-volume").status_code == 422


def test_a_real_mammogram_in_the_folder_is_answered_by_both_models(
    server: Server, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.environ.get("MAMMO_TEST_DATA")
    if not data:
        pytest.skip("MAMMO_TEST_DATA does not name a folder of real samples")
    source = Path(data) / "dicom" / "MG1_J2KI.dcm"
    shutil.copy(source, server.studies / "real.dcm")
    for model in (QUALITY, SEGMENTATION):
        file, params = client.infer(model, "real", dict(SLICER))
        mask, itk = read(file)
        assert mask.shape == (4664, 3064)
        assert params["label_names"]
        assert_same_place(itk, source)
