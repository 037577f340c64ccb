"""The audit's vocabulary: kinds of finding with their meaning and remedy, and the records that the checks share.

Decides nothing: when a finding arises stands in `audit_checks` and `audit_copies`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from monai_mammo.datasets.audit_pixels import MaskMeasure, Measure
from monai_mammo.datasets.datalist import LABEL_NAMES

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""error: training or its evaluation cannot be trusted; warning: look before training; note: good to know."""

SPACING_MM = (0.02, 0.5)
"""Pixel spacings that mammograms have: from the finest detectors to reduced scans."""

SPACING_FACTOR = 2.5
"""How far a spacing may be off the median of its list."""

DISTANCE, CORRELATION = 45, 0.92
"""Most signs (of 256) in which copies differ, and least correlation of their 64 x 64 local contrast; both must hold.

Measured on 265 low-energy and 264 subtracted images of CDD-CESM and the 322 films of mini-MIAS (851 images, 361 675
pairs, each straight and mirrored): no pair of different exposures passes both. The most alike within the distance
correlate by 0.885 (of different patients) and 0.902 (the two breasts of one); the nearest above a correlation of 0.9
differ in 52 signs (different patients), 43 (one patient's breasts).

Share of copies found, of every second image of 587: at least 99 % with half or 0.37 of the size, 8 bits, JPEG of
quality 30, brightness times 0.6 or 1.2, gamma 0.7 or 1.4, noise of 3 %, or turned by 0.5 degrees; 98 % with 0.1 added
to every pixel; cropped by 0.5 % of a side 97 to 99 %, by 1 % 80 to 91 %, by 2 % 32 to 37 %, by 5 % 2 to 6 %; turned by
1 degree 94 %, by 2 degrees 1 %; moved by 0.5 % along both sides 24 %, by 1 % 3 %.
"""


class Check(NamedTuple):
    """A kind of finding: what it is, why it matters, what helps."""

    title: str
    explanation: str
    remedy: str


CHECKS: Mapping[str, Check] = {
    "datalist": Check(
        "Unusable datalist or entry",
        "A part of the datalist is not in the form that training reads, so that it would stop or skip entries.",
        "Correct the datalist, or write it again with `monai-mammo prepare`.",
    ),
    "missing": Check(
        "Missing files",
        "The datalist names files that do not exist; training stops when it reaches them.",
        "Restore the files or prepare the data again.",
    ),
    "undecodable": Check(
        "Undecodable files",
        "The files exist, but cannot be read; training stops when it reaches them.",
        "Download or export them again, or take them out of the datalist.",
    ),
    "blank": Check(
        "Images without contrast",
        "All pixels have the same value: there is nothing to learn from.",
        "Take them out of the datalist or export them again.",
    ),
    "patient-splits": Check(
        "Patients in two splits",
        "Views of one patient look alike, so that validation or test results come out better than they are.",
        "Split by patient (`--protocol patient`). A list of the papers' protocol does this on purpose; its results "
        "are not comparable with others.",
    ),
    "patient-lists": Check(
        "Patients on different sides in two lists",
        "Within each list the split is clean, but a network trained on one list and tested on the other would have "
        "seen the patients.",
        "Use only the lists' own splits, or prepare all lists with the same seed.",
    ),
    "patient-header": Check(
        "One patient under several names",
        "Images of one patient by their DICOM headers (PatientID) have different `patient`s in the datalist. Across "
        "splits, validation or test results come out better than they are; within one, intervals come out too narrow. "
        "A PatientID that all images of the list share is nobody's, and is not asked.",
        "Give all images of a patient the same `patient` and split again. If the headers hold a placeholder, nothing "
        "has to be done.",
    ),
    "patient-spelling": Check(
        "Patients whose names are all but equal",
        "They differ in capitals, spaces or zeros before a number only, as if one patient were written in two ways. "
        "Across splits, validation or test results then come out better than they are.",
        "If they are one, write the `patient` in one way and split again.",
    ),
    "no-patient": Check(
        "Entries without a patient",
        "Without it nobody can tell whether images of one patient are on two sides of the split; training refuses it.",
        "Add a pseudonymous `patient` to every entry.",
    ),
    "split-empty": Check(
        "Splits without an entry",
        "Training needs entries to learn from and stops without entries for validation, which choose the model; test "
        "judges it.",
        "Split again, or add entries.",
    ),
    "repeated": Check(
        "Entries that are listed twice",
        "An entry that occurs twice counts twice in training and in every metric.",
        "Remove the repeated entries.",
    ),
    "duplicate": Check(
        "Identical images",
        "Different files hold the same pixels. Across splits, the test set has been trained on; within a split, an "
        "image counts twice.",
        "Keep one of them; if they carry different patients or labels, find out which is right.",
    ),
    "near-duplicate": Check(
        "Nearly identical images",
        f"A perceptual hash (256 signs of a DCT of local contrast, at most {DISTANCE} different) and the correlation "
        f"of that contrast (at least {CORRELATION}) say that these are one image, saved again with another brightness, "
        "size or format, slightly cropped or turned, or mirrored.",
        "Open both. If they are the same exposure, keep one.",
    ),
    "mask-empty": Check(
        "Empty masks",
        "Nothing is marked. That is right for an image without a lesion, and wrong for a lesion's own mask.",
        "Check that the images have no lesion; otherwise restore the masks.",
    ),
    "mask-size": Check(
        "Masks of another size than their image",
        "Mask and image cannot be laid over each other; training stops at them.",
        "Take the mask that belongs to the image, or resize it (nearest neighbour) if the aspect ratio agrees.",
    ),
    "mask-swapped": Check(
        "Images in a mask's place",
        "The file has grey levels, or fills its whole area: it is a crop or a mammogram (CBIS-DDSM swaps them).",
        "Take the mask that belongs to the image.",
    ),
    "mask-outside": Check(
        "Masks outside the breast",
        "A part of the mask lies on the background: it belongs to another image, is mirrored, or is shifted.",
        "Compare mask and image in the pictures; take the right mask.",
    ),
    "mask-large": Check(
        "Masks of most of the breast",
        "More than half of the breast is marked: thickened skin or a diffuse region rather than a mass.",
        "Decide whether such outlines belong to the task; otherwise take them out.",
    ),
    "label": Check(
        "Labels that are absent or unknown",
        "The label is absent, or a value that the datalist does not name.",
        "Correct the label, or name the value under `labels`.",
    ),
    "label-differs": Check(
        "Different labels for one image",
        "Entries of one file, or of files with the same pixels, have different labels: training learns both, and a "
        "metric counts one of them as wrong whatever the network says.",
        "Find out which label is right and remove the other entry.",
    ),
    "box": Check(
        "Boxes that do not fit their mask",
        "`box` (row0, column0, row1, column1; half-open) decides which part of the image is cropped; it is neither "
        "the extent of the mask nor of one of its components.",
        "Compute the box from the mask again. Columns before rows are a frequent cause.",
    ),
    "laterality": Check(
        "Chest wall on the unexpected side",
        "In most images of this side, and of this list, the chest wall is at the other edge: the side is wrong, or "
        "the image is mirrored.",
        "Look at the image; correct `laterality`, or mirror the image and its mask.",
    ),
    "view": Check(
        "Another view in the pixels",
        "CC or MLO is told by the upper corner at the chest wall: filled by the bright pectoral muscle in an MLO, "
        "round and dark in a CC. Only images with a clear corner are judged.",
        "Look at the image; correct `view`.",
    ),
    "header": Check(
        "Datalist and DICOM header disagree",
        "The entry says another side, view or spacing than the image's own header.",
        "Find out which is right and correct the datalist.",
    ),
    "inverted": Check(
        "Bright background",
        "The air around the breast is bright, as if the photometric interpretation were wrong; networks expect it "
        "dark.",
        "Invert the image, or correct its photometric interpretation.",
    ),
    "burned-in": Check(
        "Burned-in annotation",
        "The DICOM header says that text is burned into the pixels: it may identify the patient.",
        "Look at the image before passing it on; blank the text.",
    ),
    "lettering": Check(
        "Marks outside the breast",
        "Bright marks in a line, as of letters: a film's label or side marker. Networks can learn from it.",
        "Training on the breast's region (mode `whole` crops to it) leaves most of it out. Look for names.",
    ),
    "spacing-unknown": Check(
        "Unknown pixel spacing",
        "Without it sizes in millimetres, such as lesion diameters and distances, cannot be given.",
        "Add `spacing` (row, column; mm) where it is known.",
    ),
    "spacing": Check(
        "Implausible pixel spacing",
        f"Outside {SPACING_MM[0]} to {SPACING_MM[1]} mm, not square, or more than {SPACING_FACTOR} times off the "
        "list's median.",
        "Look for a wrong unit (cm, µm), a print resolution taken for a spacing, or a resampled image.",
    ),
    "balance": Check(
        "Classes or groups out of balance",
        "A class that is rare or absent in a split makes its metrics uncertain or undefined. From one class nothing is "
        "learnt, and by one class no model can be chosen.",
        "Read the metrics by class; weight the loss, or split again so that each split has all classes: a table with "
        "another `--seed`, with the sections in a column `section`, or with more patients of the rare class.",
    ),
    "prepared": Check(
        "Left out or repaired by the preparation",
        "What `monai-mammo prepare` could not use as it was. These files are not, or not unchanged, in the lists.",
        "Nothing has to be done; read the reasons where many files are concerned.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """Something wrong (or worth knowing), the files it concerns, and what exactly was seen."""

    check: str
    """Key of :data:`CHECKS`."""
    severity: Severity
    detail: str
    files: tuple[Path, ...]
    lists: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    """One entry of a datalist."""

    section: str
    number: int
    image: Path
    mask: Path | None
    entry: Mapping[str, Any]
    label: str = ""
    """What its label is called (`complete`); empty where it is a mask."""

    @property
    def is_crop(self) -> bool:
        """It shows a lesion's surroundings, not a breast: what the audit knows of breasts does not apply."""
        return "region" in self.entry or ("original" in self.entry and self.mask is not None)

    @property
    def is_sample(self) -> bool:
        """It was turned, or cut on purpose (`truncation`): its corners do not tell the view."""
        return "lost" in self.entry or bool(self.entry.get("cause"))

    def text(self, key: str) -> str:
        """A value of the entry as text, empty if it is absent."""
        value = self.entry.get(key)
        return "" if value is None else str(value)


@dataclass
class DataList:
    """One `dataset.json`: its entries, the meaning of its labels, and what could not be read of it."""

    name: str
    file: Path
    labels: tuple[int, ...] = (0, 1)
    names: Mapping[str, str] = field(default_factory=lambda: LABEL_NAMES["quality"])
    """What its labels are called, by their text, where they are no masks."""
    items: list[Item] = field(default_factory=list)
    faults: list[Finding] = field(default_factory=list)


Measures = Mapping[Path, tuple[Measure, Mapping[Path, MaskMeasure]]]
"""What was measured on every existing image, and on its masks by file."""
