"""A server keeps what it decoded a moment ago: same pixels, no second decoding, never a file's former content."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from monai.transforms import LoadImaged
from PIL import Image

from monai_mammo import readers, recent
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mammogram
from monai_mammo.readers import MammogramReader
from monai_mammo.recent import RECENT, RecentMammograms

PIXELS = 64 * 48 * 4  # bytes of one image of ours as float32


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded, in turn."""
    names, read = [], recent.read_mammogram

    def noting(path, **options):
        names.append(Path(path).name)
        return read(path, **options)

    monkeypatch.setattr(recent, "read_mammogram", noting)
    return names


@pytest.fixture
def memory() -> RecentMammograms:
    memory = RecentMammograms()
    memory.keep(10 * PIXELS)
    return memory


def written(file: Path, grey: int = 100) -> Path:
    Image.fromarray(np.full((64, 48), grey, np.uint8)).save(file)
    return file


def test_an_image_asked_about_again_is_not_decoded_again(memory, decoded, tmp_path):
    file = written(tmp_path / "a.png")
    first, again = memory.read(file), memory.read(file)
    assert decoded == ["a.png"]
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.affine, again.affine)
    assert (first.format, first.spacing, first.path) == (again.format, again.spacing, again.path)


def test_what_a_caller_does_to_its_pixels_is_its_own(memory, tmp_path):
    file = written(tmp_path / "a.png")
    for _ in range(3):
        mammogram = memory.read(file)
        np.testing.assert_allclose(mammogram.pixels, 100 / 255)
        mammogram.pixels[:] = 7


def test_a_file_that_was_replaced_is_read_anew(memory, decoded, tmp_path):
    file = written(tmp_path / "a.png")
    memory.read(file)
    written(tmp_path / "new.png", grey=200).replace(file)
    np.testing.assert_allclose(memory.read(file).pixels, 200 / 255)
    assert decoded == ["a.png", "a.png"]


def test_another_display_of_an_image_is_not_the_one_that_is_kept(memory, monkeypatch, decoded, tmp_path):
    monkeypatch.setattr(readers, "RECENT", memory)
    file = written(tmp_path / "a.png")
    shown = []
    monkeypatch.setattr(readers, "read_mammogram", lambda *_, **options: shown.append(options) or read_mammogram(file))
    for options in ({}, {"voi": 1}, {"for_processing": "log"}, {}):
        MammogramReader(**options).get_data(file)
    assert decoded == ["a.png"]
    assert shown == [{"voi": 1, "for_processing": "refuse"}, {"voi": 0, "for_processing": "log"}]


def test_only_the_images_used_last_are_kept(decoded, tmp_path):
    memory = RecentMammograms()
    memory.keep(2 * PIXELS)
    files = [written(tmp_path / f"{name}.png") for name in "abc"]
    for index in (0, 1, 0, 2, 0, 1):  # the third image drives out b, not a, which was asked for since
        memory.read(files[index])
    assert decoded == ["a.png", "b.png", "c.png", "b.png"]


def test_nothing_is_kept_until_it_is_asked_for_or_after_it_is_switched_off(memory, decoded, tmp_path):
    file = written(tmp_path / "a.png")
    silent = RecentMammograms()
    silent.read(file)
    silent.read(file)
    memory.read(file)
    memory.keep(0)
    memory.read(file)
    assert len(decoded) == 4


def test_files_of_16_bits_that_are_not_compressed_are_not_kept(memory, decoded, tmp_path):
    file = tmp_path / "a.tif"
    Image.fromarray(np.full((64, 48), 5000, np.uint16)).save(file, compression=None)
    memory.read(file)
    memory.read(file)
    assert len(decoded) == 2


def test_an_error_is_not_kept_and_names_the_file_each_time(memory, tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    for path in (file, file, tmp_path / "missing.png"):
        with pytest.raises(MammogramError, match=path.name):
            memory.read(path)
    written(file)
    memory.read(file)


def test_threads_that_want_one_image_at_once_wait_for_one_decoding(memory, decoded, tmp_path, monkeypatch):
    file, waiting, read = written(tmp_path / "a.png"), threading.Barrier(5), recent.read_mammogram

    def slowly(path, **options):
        waiting.wait(timeout=30)  # all the others have asked
        return read(path, **options)

    monkeypatch.setattr(recent, "read_mammogram", slowly)

    def ask(number: int) -> np.ndarray:
        if number:
            waiting.wait(timeout=30)
        return memory.read(file).pixels

    with ThreadPoolExecutor(5) as threads:
        for pixels in threads.map(ask, range(5)):
            np.testing.assert_allclose(pixels, 100 / 255)
    assert decoded == ["a.png"]


def test_monai_s_loading_uses_the_process_s_memory(decoded, tmp_path):
    file = written(tmp_path / "a.png")
    load = LoadImaged("image", reader=MammogramReader, ensure_channel_first=True)
    RECENT.keep(10 * PIXELS)
    try:
        first, again = (load({"image": str(file)})["image"] for _ in range(2))
    finally:
        RECENT.keep(0)
    assert decoded == ["a.png"]
    np.testing.assert_array_equal(first, again)
    assert first.meta["view"] == again.meta["view"]
    assert first.data_ptr() != again.data_ptr()
