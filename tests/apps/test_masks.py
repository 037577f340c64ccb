"""Masks written for viewers: whole, or refused."""

from __future__ import annotations

import errno
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK

MASK = np.random.default_rng(0).integers(0, 2, (37, 23)).astype(np.uint8)


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module, its temporary files in a folder of their own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    module: ModuleType = pytest.importorskip("lib.masks")
    return module


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz", ".nii"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_a_mask_is_read_back_as_it_was_written(masks, extension: str, dtype: str, compressed: bool) -> None:
    request = {"result_extension": extension, "result_dtype": dtype, "result_compress": compressed}
    file = masks.write_mask(MASK, masks.Geometry(), request)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file))[0], MASK)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz", ".nii"])
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_mask_of_which_the_disk_took_only_a_part_is_refused_and_leaves_no_file(
    masks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str, share: float, compressed: bool
) -> None:
    write = SimpleITK.WriteImage

    def on_a_full_disk(image: SimpleITK.Image, path: str, **how: bool) -> None:
        write(image, path, **how)
        content = Path(path).read_bytes()
        Path(path).write_bytes(content[: int(share * len(content))])

    monkeypatch.setattr(SimpleITK, "WriteImage", on_a_full_disk)
    request = {"result_extension": extension, "result_compress": compressed}
    with pytest.raises(OSError, match="No space left") as refused:
        masks.write_mask(MASK, masks.Geometry(), request)
    assert refused.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
