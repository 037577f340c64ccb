"""Labels sent to the running server: kept where viewers show them, with a name for every value, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import nibabel
import numpy as np
import pytest
import SimpleITK

from .conftest import Server, blob, write_dicom, write_png

pytestmark = pytest.mark.slow
LESION = blob()[1]
FLIPS = ([True, False, False], [False, True, False], [True, True, False], [False, False, True])
TUMOUR = [{"name": "tumour", "idx": 1}]


@pytest.fixture
def send(server: Server, tmp_path: Path) -> Any:
    """Send a label for an image."""

    def put(image: str, label: SimpleITK.Image | Path, name: str = "label.nrrd", **params: Any) -> httpx.Response:
        file = label if isinstance(label, Path) else tmp_path / name
        if not isinstance(label, Path):
            SimpleITK.WriteImage(label, str(file))
        asked = {"image": image, "tag": "final"}
        sent = {"label": (name, file.read_bytes())}
        return server.http.put("/datastore/label", params=asked, data={"params": json.dumps(params)}, files=sent)

    return put


@pytest.fixture
def kept(server: Server, tmp_path: Path) -> Any:
    """What the server then has."""

    def get(image: str, name: str = "label.nrrd") -> SimpleITK.Image:
        answer = server.http.get("/datastore/label", params={"label": image, "tag": "final"}).raise_for_status()
        (tmp_path / f"kept-{name}").write_bytes(answer.content)
        return SimpleITK.ReadImage(str(tmp_path / f"kept-{name}"))

    return get


def place(server: Server, kind: str) -> tuple[str, SimpleITK.Image]:
    """An image of a kind, and the lesion on its grid."""
    if kind == "dicom":
        source = write_dicom(server.studies / "grid-dicom.dcm", blob()[0], patient=71)
    elif kind == "picture":
        source = write_png(server.studies / "grid-picture.png", blob()[0])
    else:
        source = server.studies / "grid-placed.nrrd"
        image = SimpleITK.GetImageFromArray((blob()[0][None] * 255).astype(np.uint8))
        image.SetSpacing((0.3, 0.25, 1))
        image.SetOrigin((-12.5, 40, 7))
        image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
        SimpleITK.WriteImage(image, str(source))
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(source))
    reader.ReadImageInformation()
    label = SimpleITK.GetImageFromArray(LESION[None].astype(np.uint8))
    axes = reader.GetDimension()
    label.SetSpacing((*reader.GetSpacing(), 1.0)[:3])
    if axes == 3:
        label.SetOrigin(reader.GetOrigin())
        label.SetDirection(reader.GetDirection())
    return f"grid-{kind}", label


def array(image: SimpleITK.Image) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(image)[0]


@pytest.mark.parametrize("kind", ["dicom", "picture", "placed"])
@pytest.mark.parametrize("name", ["label.nrrd", "label.nii.gz", "label.seg.nrrd"])
def test_a_label_whose_axes_run_backwards_is_kept_where_it_lies(
    server: Server, send: Any, kept: Any, kind: str, name: str
) -> None:
    image, label = place(server, kind)
    assert send(image, label, name).status_code == 200
    np.testing.assert_array_equal(array(kept(image, name)), LESION)
    for flip in FLIPS:
        assert send(image, SimpleITK.Flip(label, flip), name, label_info=TUMOUR).status_code == 200
        found = kept(image, name.replace(".seg", "") if any(flip[:2]) else name)
        np.testing.assert_array_equal(array(found), LESION)
        if any(flip[:2]):
            assert found.GetOrigin() == pytest.approx(label.GetOrigin(), abs=1e-4)
            assert found.GetDirection() == pytest.approx(label.GetDirection(), abs=1e-6)


@pytest.mark.parametrize("kind", ["dicom", "placed"])
def test_a_label_that_lies_elsewhere_or_is_turned_is_refused(server: Server, send: Any, kind: str) -> None:
    image, label = place(server, kind)
    beside, mirrored, turned = (SimpleITK.Image(label) for _ in range(3))
    beside.SetOrigin(label.TransformIndexToPhysicalPoint((1, 0, 0)))
    mirrored.SetOrigin((1, 1, 0))
    mirrored.SetDirection((np.reshape(label.GetDirection(), (3, 3)) * [-1, -1, 1]).flatten().tolist())
    turned.SetDirection((np.reshape(label.GetDirection(), (3, 3)) @ [[0, 1, 0], [1, 0, 0], [0, 0, 1]]).flatten())
    for wrong in (beside, mirrored, turned):
        refused = send(image, wrong)
        assert refused.status_code == 422
        assert "own pixel grid" in refused.json()["remedy"]
    beside.SetOrigin((np.array(label.GetOrigin()) * 0.6 + np.array(beside.GetOrigin()) * 0.4).tolist())
    assert send(image, beside).status_code == 200, "less than half a pixel"


@pytest.mark.parametrize("kind", ["dicom", "picture", "placed"])
def test_a_label_without_a_place_is_kept_as_it_is(
    server: Server, send: Any, kept: Any, kind: str, tmp_path: Path
) -> None:
    image, _ = place(server, kind)
    plain = SimpleITK.GetImageFromArray(LESION[None].astype(np.uint8))
    for name in ("label.nrrd", "label.nii.gz"):
        assert send(image, plain, name).status_code == 200
        np.testing.assert_array_equal(array(kept(image, name)), LESION)
    nifti, picture = tmp_path / "eye.nii.gz", write_png(tmp_path / "label.png", LESION)
    nibabel.save(nibabel.Nifti1Image(LESION.T[..., None].astype(np.uint8), np.eye(4)), nifti)
    assert send(image, nifti, "eye.nii.gz").status_code == 200
    np.testing.assert_array_equal(array(kept(image, "eye.nii.gz")), LESION)
    assert send(image, picture, "label.png").status_code == 200


def test_a_picture_has_no_place_that_a_label_could_miss(server: Server, send: Any, kept: Any) -> None:
    image, label = place(server, "picture")
    label.SetOrigin((-12.5, 40, 7))
    assert send(image, label).status_code == 200
    np.testing.assert_array_equal(array(kept(image)), LESION)


def test_a_value_that_label_info_does_not_name_is_refused(server: Server, send: Any) -> None:
    image, label = place(server, "dicom")
    two = label * 3
    two.SetMetaData("Segment0_LabelValue", "3")
    for name in ("label.nrrd", "label.seg.nrrd"):
        refused = send(image, two, name, label_info=TUMOUR)
        assert refused.status_code == 422
        assert refused.json()["reason"].endswith("values 3")
    assert send(image, two).status_code == 200, "a label that names nothing is a tumour"
    names = {"info": json.dumps({"label_info": TUMOUR})}
    asked = {"label": image, "tag": "final"}
    assert server.http.put("/datastore/label/info", params=asked, data=names).status_code == 422
    named = [*TUMOUR, {"name": "calcification", "idx": 3}]
    assert send(image, two, label_info=named).status_code == 200
    assert send(image, label * 0, label_info=TUMOUR).status_code == 200, "a normal breast"
