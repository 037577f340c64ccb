"""The readers inside MONAI: LoadImaged, batches, and errors that arrive whole."""

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import LoadImaged
from PIL import Image

from monai_mammo.dicom import MammogramError, read_mammogram
from monai_mammo.readers import MammogramReader, MaskReader


def load(**options):
    return LoadImaged("image", reader=MammogramReader, ensure_channel_first=True, **options)


@pytest.fixture
def png(tmp_path):
    Image.fromarray(np.full((40, 30), 128, np.uint8)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_load_imaged_gives_one_channel_of_rows_and_columns(make):
    path = make(ImagerPixelSpacing=[0.1, 0.05], ViewPosition="MLO", ImageLaterality="R")
    image = load()({"image": path})["image"]
    assert isinstance(image, MetaTensor)
    assert image.shape == (1, 40, 30)
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image[0], read_mammogram(path).pixels)
    assert (image.meta["view"], image.meta["laterality"]) == ("MLO", "R")
    np.testing.assert_allclose(image.meta["spacing"], [0.1, 0.05])
    np.testing.assert_allclose(image.pixdim[:2], [0.1, 0.05])


def test_images_with_and_without_spacing_make_one_batch(make, png, secrets):
    files = [make(ImagerPixelSpacing=[0.1, 0.05], ViewPosition="CC"), make(), png]
    (batch,) = DataLoader(Dataset([{"image": str(path)} for path in files], load()), batch_size=3)
    assert batch["image"].shape == (3, 1, 40, 30)
    assert batch["image"].meta["view"] == ["CC", "", ""]
    spacing = np.asarray(batch["image"].meta["spacing"])
    np.testing.assert_allclose(spacing, [[0.1, 0.05], [np.nan] * 2, [np.nan] * 2])
    assert not [secret for secret in secrets if secret in str(batch["image"].meta)]


def test_an_image_and_its_mask_are_loaded_together(make, tmp_path):
    mask = np.zeros((40, 30), np.uint8)
    mask[10:20, 5:9] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    item = load()({"image": make(), "label": tmp_path / "mask.png"})
    item = LoadImaged("label", reader=MaskReader, ensure_channel_first=True, dtype=np.uint8)(item)
    assert item["label"].shape == item["image"].shape
    np.testing.assert_array_equal(item["label"][0], mask > 0)


def test_options_reach_the_reader(make):
    path = make(PresentationIntentType="FOR PROCESSING")
    with pytest.raises(MammogramError, match="FOR PROCESSING"):
        load()({"image": path})
    assert load(for_processing="log")({"image": path})["image"].shape == (1, 40, 30)


@pytest.mark.parametrize("reader", [MammogramReader, MaskReader])
def test_the_typed_error_arrives_and_not_a_list_of_attempts(tmp_path, reader):
    path = tmp_path / "text.dcm"
    path.write_text("no image")
    with pytest.raises(MammogramError, match=r"text\.dcm: it is neither DICOM"):
        LoadImaged("image", reader=reader)({"image": path})


def test_several_files_for_one_image_are_refused(make):
    with pytest.raises(MammogramError, match="2 files"):
        MammogramReader().read([make(), make()])
