"""Real files: scanned film, a test pattern for spacings, CBIS-DDSM crops."""

import numpy as np
import pytest

from monai_mammo.dicom import MammogramError, read_mammogram, read_mask


def test_scanned_film_of_modality_rg(samples):
    mammogram = read_mammogram(samples / "dicom" / "MG1_J2KI.dcm")
    assert mammogram.pixels.shape == (4664, 3064)
    assert (mammogram.view, mammogram.laterality, mammogram.modality) == ("MLO", "L", "RG")
    # Air at the right, breast at the left.
    assert mammogram.pixels[2500:3500, -200:].mean() < 0.25 < mammogram.pixels[2500:3500, :500].mean()


def test_12_bits_of_lossy_jpeg_are_the_same_film(samples):
    lossy, film = (read_mammogram(samples / "dicom" / f"MG1_{name}.dcm") for name in ("JPLY", "J2KI"))
    assert (lossy.view, lossy.laterality) == (film.view, film.laterality)
    assert np.abs(lossy.pixels - film.pixels).mean() < 0.005


def test_the_calibrated_spacing_wins(samples):
    mammogram = read_mammogram(samples / "dicom" / "MG_Explicit_Little.dcm")
    assert mammogram.spacing == (0.25, 0.25)
    assert (mammogram.view, mammogram.laterality, mammogram.intent) == ("CC", "R", "presentation")


def test_cbis_ddsm_crops(samples):
    files = sorted((samples / "cbis-ddsm" / "dicom").rglob("*.dcm"))
    assert len(files) == 3
    for path in files:
        mammogram = read_mammogram(path)
        case = path.parents[2].name
        assert mammogram.view == ("MLO" if "_MLO_" in case else "CC")
        assert mammogram.laterality == ("R" if "_RIGHT_" in case else "L")
        assert mammogram.spacing is None
        assert mammogram.pixels.max() == 1.0
        # One of them lies in a folder "ROI mask images": only its pixels tell that it is no mask.
        with pytest.raises(MammogramError, match="grey levels"):
            read_mask(path)


def test_public_pictures_and_masks(samples):
    image = read_mammogram(next((samples / "cdd-cesm" / "images").glob("*.jpg")))
    mask = read_mask(next((samples / "cdd-cesm" / "masks").glob("*.png")))
    assert image.pixels.shape == mask.shape == (512, 512)
    assert set(np.unique(mask)) <= {0, 1}
