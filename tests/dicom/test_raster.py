"""Pictures and one-slice volumes become the same rows, columns and scale as DICOM; masks become labels."""

import nibabel
import numpy as np
import pytest
from PIL import Image

from monai_mammo.dicom import MammogramError, read_header, read_mammogram, read_mask


@pytest.fixture
def ramp16():
    return np.linspace(0, 65535, 12 * 7).reshape(12, 7).round().astype(np.uint16)


def save_picture(path, values):
    Image.fromarray(values).save(path)
    return path


def save_nifti(path, values, affine=None):
    """`values` in rows and columns; NIfTI's first index is x, the column."""
    nibabel.save(
        nibabel.Nifti1Image(values.T[..., None], np.diag([-0.05, -0.1, 1, 1]) if affine is None else affine), path
    )
    return path


@pytest.mark.parametrize("name", ["RAS.NII.GZ", "ras.Nii.gz", "ras.nii.GZ", "RAS.NII", "ras.Nii", "ras.dat"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_nifti_is_read_whatever_capitals_its_name_has(tmp_path, name, kind):
    values = np.eye(5, 4, dtype=np.uint8)
    plain = tmp_path / ("plain.nii.gz" if name.lower().endswith("gz") else "plain.nii")
    nibabel.save(kind(values.T[..., None], np.eye(4)), plain)
    np.testing.assert_array_equal(read_mask(plain.rename(tmp_path / name)), values)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_integers_are_scaled_by_the_range_of_their_type(tmp_path, ramp16, suffix):
    deep = read_mammogram(save_picture(tmp_path / f"deep.{suffix}", ramp16))
    np.testing.assert_allclose(deep.pixels, ramp16 / 65535, atol=1e-6)
    dim = read_mammogram(save_picture(tmp_path / f"dim.{suffix}", (ramp16 >> 10).astype(np.uint8)))
    np.testing.assert_allclose(dim.pixels, (ramp16 >> 10) / 255, atol=1e-6)
    assert deep.pixels.dtype == dim.pixels.dtype == np.float32
    assert (deep.spacing, deep.view, deep.laterality) == (None, None, None)


def test_the_content_decides_and_not_the_name(tmp_path, ramp16, make):
    Image.fromarray(ramp16).save(tmp_path / "picture.dcm", format="PNG")
    assert read_header(tmp_path / "picture.dcm").format == "png"
    (tmp_path / "mammogram.png").write_bytes(make().read_bytes())
    assert read_header(tmp_path / "mammogram.png").format == "dicom"


def test_colour_pictures(tmp_path):
    grey = np.arange(84, dtype=np.uint8).reshape(12, 7)
    alpha = np.full_like(grey, 9)
    for name, channels in {"rgb": [grey] * 3, "rgba": [grey] * 3 + [alpha], "la": [grey, alpha]}.items():
        path = save_picture(tmp_path / f"{name}.png", np.stack(channels, axis=-1))
        np.testing.assert_allclose(read_mammogram(path).pixels, grey / 255, atol=1e-6)
    red = np.stack([grey, 0 * grey, 0 * grey], axis=-1)
    shown = read_mammogram(save_picture(tmp_path / "red.png", red)).pixels
    np.testing.assert_allclose(shown, 0.299 * grey / 255, atol=0.003)


def test_a_palette_is_looked_up_in_images_but_is_the_label_in_masks(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), mode="P")
    image.putpalette([0, 0, 0, 102, 102, 102, 255, 255, 255])
    image.save(tmp_path / "palette.png")
    np.testing.assert_allclose(read_mammogram(tmp_path / "palette.png").pixels, [[0, 0.4, 1]], atol=1e-6)
    np.testing.assert_array_equal(read_mask(tmp_path / "palette.png"), [[0, 1, 2]])


def test_the_labels_of_a_coloured_palette_are_its_numbers_if_the_first_is_black(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "palette.png"), [[0, 1, 2]])


def test_a_palette_that_a_program_made_by_itself_is_refused(tmp_path):
    """The commonest colour may come first, whichever it is: masks came out inverted."""
    drawn = np.zeros((60, 50, 3), np.uint8)
    drawn[10:20, 10:20] = [255, 0, 0]
    image = Image.fromarray(drawn).quantize(2)
    assert image.getpalette()[:3] == [255, 0, 0]
    image.save(tmp_path / "quantised.png")
    with pytest.raises(MammogramError, match=r"palette does not begin with black, .* Save it with one channel"):
        read_mask(tmp_path / "quantised.png")


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("colour", [0, 255])
def test_a_mask_drawn_by_its_transparency_is_refused(tmp_path, mode, colour):
    """White on transparent was a mask of everything, black on transparent one of nothing."""
    alpha = np.zeros((60, 50), np.uint8)
    alpha[10:20, 10:20] = 255
    grey = np.full_like(alpha, colour)
    path = save_picture(tmp_path / "mask.png", np.stack([grey] * (len(mode) - 1) + [alpha], axis=-1))
    with pytest.raises(MammogramError, match=r"mask\.png: parts of the mask are transparent\. Save it opaque"):
        read_mask(path)
    opaque = save_picture(tmp_path / "opaque.png", np.stack([alpha] * (len(mode) - 1) + [grey | 255], axis=-1))
    np.testing.assert_array_equal(read_mask(opaque) > 0, alpha > 0)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "NII.GZ"])
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
def test_nifti_is_transposed_to_rows_and_columns(tmp_path, suffix, dtype):
    values = np.arange(84, dtype=dtype).reshape(12, 7)
    mammogram = read_mammogram(save_nifti(tmp_path / f"image.{suffix}", values))
    np.testing.assert_allclose(mammogram.pixels, values / np.iinfo(dtype).max, atol=1e-6)
    assert mammogram.spacing == pytest.approx((0.1, 0.05))
    np.testing.assert_allclose(mammogram.affine @ [1, 0, 0, 1], [0, -0.1, 0, 1], atol=1e-6)


def test_nifti_keeps_its_own_geometry(tmp_path):
    affine = np.array([[0.05, 0, 0, 10], [0, 0.1, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1.0]])
    mammogram = read_mammogram(save_nifti(tmp_path / "image.nii", np.zeros((12, 7), np.uint8), affine))
    np.testing.assert_allclose(mammogram.affine @ [2, 3, 0, 1], [10.15, 20.2, 30, 1], atol=1e-5)


@pytest.mark.parametrize(("unit", "millimetres"), [("mm", 1), ("micron", 0.001), ("meter", 1000)])
def test_niftis_unit_counts(tmp_path, unit, millimetres):
    affine = np.diag([0.05, 0.1, 1, millimetres]) / millimetres
    affine[:3, 3] = np.array([10, 20, 30]) / millimetres
    image = nibabel.Nifti1Image(np.zeros((7, 12, 1), np.uint8), affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "image.nii")
    header = read_header(tmp_path / "image.nii")
    assert header.spacing == pytest.approx((0.1, 0.05))
    np.testing.assert_allclose(header.affine @ [2, 3, 0, 1], [10.15, 20.2, 30, 1], atol=1e-4)


def test_a_spacing_of_one_is_unknown(tmp_path):
    assert read_header(save_nifti(tmp_path / "image.nii", np.zeros((12, 7), np.uint8), np.eye(4))).spacing is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 0.25], [0.5, 1]], np.float32), [[0, 0.25], [0.5, 1]]),
        (np.array([[0, 0.2], [0.1, 0.3]], np.float32), [[0, 0.2], [0.1, 0.3]]),
        (np.array([[-10, 0], [10, 30]], np.float32), [[0, 0.25], [0.5, 1]]),
        (np.array([[-100, 0], [100, 300]], np.int16), [[0, 0.25], [0.5, 1]]),
        (np.array([[7, 7], [7, 7]], np.int16), [[0, 0], [0, 0]]),
    ],
)
def test_values_without_a_natural_range(tmp_path, values, expected):
    shown = read_mammogram(save_nifti(tmp_path / "image.nii", values)).pixels
    np.testing.assert_allclose(shown, expected, atol=1e-6)
    assert shown.dtype == np.float32


@pytest.mark.parametrize("space", ["left-posterior-superior", "LPS"])
def test_nrrd(tmp_path, space):
    nrrd = pytest.importorskip("nrrd")
    values = np.arange(84, dtype=np.uint8).reshape(12, 7)
    header = {
        "space": space,
        "space directions": np.diag([0.05, 0.1, 1.0]),
        "space origin": [10, 20, 30],
    }
    nrrd.write(str(tmp_path / "image.nrrd"), values.T[..., None], header)
    mammogram = read_mammogram(tmp_path / "image.nrrd")
    np.testing.assert_allclose(mammogram.pixels, values / 255, atol=1e-6)
    assert mammogram.spacing == pytest.approx((0.1, 0.05))
    np.testing.assert_allclose(mammogram.affine @ [1, 0, 0, 1], [-10, -20.1, 30, 1])
    nrrd.write(str(tmp_path / "plain.nrrd"), values.T)
    assert read_mammogram(tmp_path / "plain.nrrd").pixels.shape == (12, 7)
    nrrd.write(str(tmp_path / "detached.nhdr"), values.T)
    with pytest.raises(MammogramError, match="points to another file"):
        read_mammogram(tmp_path / "detached.nhdr")


@pytest.mark.parametrize("shape", [(5, 4, 3), (5,), (5, 4, 1, 2)])
def test_volumes_are_refused(tmp_path, shape):
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), tmp_path / "volume.nii")
    with pytest.raises(MammogramError, match="shape"):
        read_mammogram(tmp_path / "volume.nii")


def test_several_pages_are_refused(tmp_path):
    page = Image.fromarray(np.zeros((5, 4), np.uint8))
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    with pytest.raises(MammogramError, match="2 pages"):
        read_mammogram(tmp_path / "pages.tif")


@pytest.mark.parametrize("name", ["image.png", "image.tif", "image.jpg", "image.nii", "image.nii.gz"])
def test_damage_and_size(tmp_path, name):
    values = np.random.default_rng(0).integers(0, 255, (60, 50)).astype(np.uint8)
    path = (save_nifti if "nii" in name else save_picture)(tmp_path / name, values)
    with pytest.raises(MammogramError, match="more than the 2999"):
        read_mammogram(path, max_pixels=2999)
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(MammogramError):
        read_mammogram(path)


def test_values_that_are_not_finite(tmp_path):
    path = save_nifti(tmp_path / "image.nii", np.array([[0, np.nan]], np.float32))
    with pytest.raises(MammogramError, match="not finite"):
        read_mammogram(path)


class TestMasks:
    @pytest.mark.parametrize(
        ("values", "labels"),
        [
            (np.array([[0, 255]], np.uint8), [[0, 1]]),
            (np.array([[0, 65535]], np.uint16), [[0, 1]]),
            (np.array([[0, 1]], np.uint8), [[0, 1]]),
            (np.array([[0, 2]], np.uint8), [[0, 2]]),
            (np.array([[0, 1, 2, 3]], np.uint8), [[0, 1, 2, 3]]),
            (np.array([[False, True]]), [[0, 1]]),
            (np.array([[0, 0]], np.uint8), [[0, 0]]),
            (np.array([[255, 255]], np.uint8), [[1, 1]]),
        ],
    )
    def test_two_values_or_labels(self, tmp_path, values, labels):
        mask = read_mask(save_picture(tmp_path / "mask.png", values))
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, labels)

    def test_lies_on_its_image_in_every_format(self, tmp_path, make):
        mask = np.zeros((12, 7), np.uint8)
        mask[2:5, 1:6] = 255
        for path in (
            save_picture(tmp_path / "mask.png", mask),
            save_nifti(tmp_path / "mask.nii.gz", mask),
            save_nifti(tmp_path / "float.nii.gz", (mask > 0).astype(np.float64)),
            make(mask, bits=8, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", PresentationIntentType=None),
        ):
            np.testing.assert_array_equal(read_mask(path), mask > 0)

    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            (np.array([[0, 100, 200]], np.float32), "grey levels"),
            (np.array([[0, 0.5]], np.float32), "fractional"),
            (np.array([[-1, 1]], np.float32), "negative"),
            (np.array([[np.nan, 1]], np.float32), "finite"),
        ],
    )
    def test_no_mask(self, tmp_path, values, reason):
        with pytest.raises(MammogramError, match=reason):
            read_mask(save_nifti(tmp_path / "mask.nii", values))

    def test_colours_are_no_labels(self, tmp_path):
        colours = np.zeros((3, 4, 3), np.uint8)
        colours[1, 1] = 200, 0, 0
        with pytest.raises(MammogramError, match="coloured"):
            read_mask(save_picture(tmp_path / "mask.png", colours))
