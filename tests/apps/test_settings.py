"""Settings: what cannot work is refused at the start, by its name, and not when the first reader asks for something."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from lib.settings import device, is_on, mebibytes
from main import MammoApp

from .conftest import APP, QUALITY, SEGMENTATION


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("lease_minutes", value) for value in ("abc", "nan", "inf", "-5", "1e9", "")),
        *(("seed", value) for value in ("x", "1.5", "-1")),
        *(("device", value) for value in ("gpu", "meta", "cuda:99")),
        *(("cache_gb", value) for value in ("x", "-1", "inf")),
        ("query", "foo"),
    ],
)
def test_an_app_does_not_start_with_a_setting_that_cannot_work(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"^conf {key}: '{value}' is no "):
        MammoApp(str(APP), str(tmp_path / "studies"), {"weights": str(tmp_path), key: value})


def test_an_app_does_not_start_without_both_bundles(tmp_path: Path) -> None:
    shutil.copytree(APP.parents[1] / "bundles" / QUALITY / "configs", tmp_path / QUALITY / "configs")
    with pytest.raises(ValueError, match=f"^conf bundles: there is no bundle {SEGMENTATION} in {tmp_path}"):
        MammoApp(str(APP), str(tmp_path / "studies"), {"bundles": str(tmp_path)})


@pytest.mark.parametrize("key", ["weights", "labels"])
def test_a_folder_to_write_to_is_made_or_refused_by_name(tmp_path: Path, key: str) -> None:
    conf = {"weights": str(tmp_path / "weights")}
    app = MammoApp(str(APP), str(tmp_path / "studies"), {**conf, key: str(tmp_path / "new" / key)})
    assert (tmp_path / "new" / key).is_dir()
    assert app.weights == (tmp_path / "new" / key if key == "weights" else tmp_path / "weights")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=f"^conf {key}: .* is no place for a folder"):
        MammoApp(str(APP), str(tmp_path / "studies"), {**conf, key: str(tmp_path / "file")})


def test_a_setting_in_mib_is_a_whole_number_or_refused_by_name() -> None:
    assert mebibytes({}, "recent_images") == 512 * 2**20
    assert mebibytes({"recent_images": "0"}, "recent_images") == 0
    for value in ("-1", "1.5", "much", "", "\u00b2"):
        with pytest.raises(ValueError, match=r"conf recent_images: .* is no (whole )?number"):
            mebibytes({"recent_images": value}, "recent_images")
    with pytest.raises(ValueError, match="conf upload_limit"):
        mebibytes({"upload_limit": "0"}, "upload_limit", least=1)


def test_a_switch_is_on_or_off() -> None:
    assert [is_on(conf, "scoring") for conf in ({}, {"scoring": "on"}, {"scoring": "off"})] == [True, True, False]
    with pytest.raises(ValueError, match="conf scoring: 'OFF' is neither on nor off"):
        is_on({"scoring": "OFF"}, "scoring")


def test_the_bundles_choose_the_device_unless_a_setting_does() -> None:
    assert device({}) is None
    assert device({"device": "cpu"}) == "cpu"
