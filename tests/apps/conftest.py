"""What the app's tests share: its folder on the path, studies with known content, bundles that need no training."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
APP = ROOT / "apps" / "mammo"

pytest.importorskip("monailabel", reason="the app's server needs the extra `label`")
sys.path.insert(0, str(APP))


def blob(rows: int = 120, columns: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """A dim breast at the left edge with a bright L-shaped lesion in its upper part; pixels and the lesion."""
    y, x = np.mgrid[:rows, :columns]
    breast = (x / (0.8 * columns)) ** 2 + ((y - rows / 2) / (0.45 * rows)) ** 2 < 1
    lesion = np.zeros((rows, columns), dtype=bool)
    lesion[rows // 4 : rows // 4 + 24, 20:28] = True
    lesion[rows // 4 : rows // 4 + 8, 20:44] = True
    return np.where(lesion, 1.0, np.where(breast, 0.4, 0.0)), lesion


def write_dicom(path: Path, pixels: np.ndarray, patient: int = 1, spacing: float = 0.2, **encoding: str) -> Path:
    """A For Presentation mammogram of these pixels (left CC), uncompressed MONOCHROME2 unless said otherwise."""
    from pydicom.uid import UID, ExplicitVRLittleEndian

    from monai_mammo.datasets.phantom_dicom import VOI, Encoding, write_mammogram

    path.parent.mkdir(parents=True, exist_ok=True)
    syntax = UID(encoding.get("syntax", ExplicitVRLittleEndian))
    how = Encoding(syntax, encoding.get("photometric", "MONOCHROME2"), VOI[0])
    write_mammogram(
        path,
        pixels,
        patient=patient,
        laterality="L",
        view="CC",
        density="b",
        spacing=spacing,
        seed=0,
        encoding=how,
    )
    return path


@pytest.fixture(scope="session")
def small_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both bundles with networks and inputs so small that they train in seconds."""
    folder = tmp_path_factory.mktemp("bundles")
    for source in sorted((ROOT / "bundles").iterdir()):
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("*.pt", "eval", "cache"))
        for name in ("train.yaml", "inference.yaml"):
            config = folder / source.name / "configs" / name
            text = config.read_text(encoding="utf-8")
            for key, value in {
                "width": "4",
                "size": "[64, 64]",
                "roi_size": "[64, 64]",
                "whole_size": "[96, 64]",
            }.items():
                text = re.sub(rf"^{key}: [^$\"\n]*?(?= #|$)", f"{key}: {value}", text, flags=re.MULTILINE)
            config.write_text(text, encoding="utf-8")
    return folder
