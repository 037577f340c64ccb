"""The app without its server: what it starts on, what it refuses, many images in one go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from main import MammoApp
from monailabel.interfaces.exception import MONAILabelException

from monai_mammo import recent

from .conftest import APP, QUALITY, SEGMENTATION, blob, start_server, stop_server, write_dicom, write_png


def test_it_starts_on_an_empty_folder_and_offers_no_image(tmp_path: Path) -> None:
    app = MammoApp(str(APP), str(tmp_path / "studies"), {"weights": str(tmp_path)})
    assert app.info()["datastore"]["total"] == 0
    assert app.next_sample({"strategy": "random"}) == {}


def test_an_archives_address_with_a_password_is_refused_without_repeating_it(tmp_path: Path) -> None:
    with pytest.raises(MONAILabelException) as refused:
        MammoApp(str(APP), "https://name:secret@example.org/dicom-web", {"weights": str(tmp_path)})
    assert "without name and password" in refused.value.msg
    assert "secret" not in refused.value.msg


def test_the_random_strategy_repeats_itself_for_one_seed_and_reaches_every_image(tmp_path: Path) -> None:
    chosen = []
    for run in range(2):
        studies = tmp_path / f"studies{run}"  # each with leases of its own
        for number in range(4):
            write_png(studies / f"{number}.png", blob()[0])
        app = MammoApp(str(APP), str(studies), {"weights": str(tmp_path), "seed": "7"})
        chosen.append([app.next_sample({"strategy": "random"})["id"] for _ in range(30)])
    assert chosen[0] == chosen[1]
    assert set(chosen[0]) == {"0", "1", "2", "3"}


def test_the_case_handed_out_is_decoded_before_anybody_asks_about_it(bundles, tmp_path, monkeypatch) -> None:
    decoded, read = [], recent.read_mammogram

    def noting(path: Path, **options: Any) -> Any:
        decoded.append(path.name)
        return read(path, **options)

    monkeypatch.setattr(recent, "read_mammogram", noting)
    for name in ("cc.dcm", "mlo.dcm", "torn.dcm"):
        file = write_dicom(tmp_path / "studies" / name, blob()[0], syntax="1.2.840.10008.1.2.4.90")
    app = MammoApp(str(APP), str(tmp_path / "studies"), {"weights": str(tmp_path), "bundles": str(bundles)})
    app.datastore().refresh()
    file.write_bytes(file.read_bytes()[:-1500])  # after it was listed: decoding it ahead fails
    recent.RECENT.keep(2**26)
    try:
        for _ in range(3):
            app.next_sample({"strategy": "random"})
        app.ahead.wait()
        assert {"cc.dcm", "mlo.dcm"} <= set(decoded)
        assert [image["file"] for image in app.datastore().status()["unreadable"]] == ["torn.dcm"]
        before = len(decoded)
        for image in ("cc", "mlo"):
            app.infer({"model": QUALITY, "image": image, "output": "json", "result_write_to_file": False})
        assert len(decoded) == before
    finally:
        recent.RECENT.keep(0)


@pytest.mark.slow
def test_a_server_starts_on_an_empty_folder_but_not_on_one_that_is_not_there(bundles: Path, tmp_path: Path) -> None:
    for folder in ("first", "second", "empty"):
        (tmp_path / folder).mkdir()
    with pytest.raises(RuntimeError) as refused:
        start_server(tmp_path / "mistyped", bundles, tmp_path / "first")
    (line,) = [line for line in str(refused.value).splitlines() if "does not exist" in line]
    assert "mistyped" in line
    assert "Traceback" not in str(refused.value)
    assert not (tmp_path / "mistyped").exists()
    running = start_server(tmp_path / "empty", bundles, tmp_path / "second")
    assert running.http.get("/info/").json()["datastore"]["total"] == 0
    stop_server(running)


def test_a_server_that_does_not_start_in_time_leaves_no_process_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="did not start"):
        start_server(tmp_path / "studies", tmp_path / "bundles", tmp_path, patience=0)
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if str(tmp_path) in command]


def test_a_bad_image_does_not_end_a_batch(bundles: Path, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    write_png(studies / "a.png", blob()[0])
    torn = write_dicom(studies / "b.dcm", blob()[0], syntax="1.2.840.10008.1.2.4.90")
    torn.write_bytes(torn.read_bytes()[:-1500])
    write_png(studies / "c.png", blob()[0])
    app = MammoApp(str(APP), str(studies), {"weights": str(tmp_path), "bundles": str(bundles), "device": "cpu"})
    assert app.batch_infer({"model": SEGMENTATION, "images": "all"}) == {"images": 3, "failed": 1}
    assert app.datastore().get_labeled_images("original") == ["a", "c"]


def test_what_a_batch_prints_which_the_server_logs_names_no_image_and_no_verdict(bundles: Path, tmp_path: Path) -> None:
    """Run as the server runs it. An archive names its images by their UIDs."""
    for name in ("1-2-840-1.dcm", "1-2-840-2.dcm"):
        torn = write_dicom(tmp_path / "studies" / name, blob()[0], syntax="1.2.840.10008.1.2.4.90")
    torn.write_bytes(torn.read_bytes()[:-1500])
    conf = {"weights": str(tmp_path), "bundles": str(bundles), "device": "cpu"}
    places = {"MONAI_LABEL_APP_DIR": str(APP), "MONAI_LABEL_STUDIES": str(tmp_path / "studies")}
    command = [sys.executable, "-m", "monailabel.interfaces.utils.app", "-m", "batch_infer", "-r"]
    done = subprocess.run(
        [*command, json.dumps({"model": QUALITY, "images": "all"})],
        env={**os.environ, **places, "MONAI_LABEL_APP_CONF": json.dumps(conf)},
        capture_output=True,
        text=True,
        check=True,
    )
    printed = done.stdout + done.stderr
    assert 'Result: {"images": 2, "failed": 1}' in printed
    assert "1-2-840" not in printed
    assert "complete" not in printed


def test_the_same_image_gives_the_same_verdict_in_every_format(bundles: Path, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    write_dicom(studies / "dicom.dcm", blob()[0])
    write_dicom(studies / "inverse.dcm", blob()[0], photometric="MONOCHROME1")
    app = MammoApp(str(APP), str(studies), {"weights": str(tmp_path), "bundles": str(bundles), "device": "cpu"})
    verdicts = [
        app.infer({"model": QUALITY, "image": image, "result_write_to_file": False})["params"]["quality"]
        for image in ("dicom", "inverse")
    ]
    assert verdicts[0]["probability_incomplete"] == pytest.approx(verdicts[1]["probability_incomplete"], abs=1e-3)
