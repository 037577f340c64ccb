"""The audit's page: one file that shows everything, loads nothing, and does not trust what datalists say."""

import base64
import io
import json
import re
from html import escape, unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from monai_mammo.datasets.audit import NOT_CHECKED, audit
from monai_mammo.datasets.audit_page import MORE, SHEET, page

HOSTILE = "<script>alert(1)</script>"


class Reading(HTMLParser):
    """What of a page matters here: its tags with their attributes, its text, and whether tags are closed."""

    VOID = {"meta", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += f"{data} "

    def all(self, tag):
        return [attributes for found, attributes in self.tags if found == tag]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Thirty images of thirty patients in training, one with a mask, one missing; names that try to be HTML."""
    out = tmp_path_factory.mktemp("own")
    generator = np.random.default_rng(0)
    entries = []
    for number in range(30):
        name = f"image & {number}.png"
        Image.fromarray(generator.integers(0, 255, (200, 150), dtype=np.uint8)).save(out / name)
        entries.append({"image": name, "label": number % 2, "patient": f"{HOSTILE}{number}", "view": '"><b>CC'})
    mask = np.zeros((200, 150), np.uint8)
    mask[50:100, 50:100] = 255
    Image.fromarray(mask).save(out / "mask.png")
    entries[0]["label"] = "mask.png"
    entries.append({"image": f"{HOSTILE}.png".replace("/", "_"), "label": 0, "patient": "gone"})
    entries.append({**entries[1], "laterality": "L"})
    document = {"training": entries, "test": [entries[1]]}
    (out / "dataset.json").write_text(json.dumps(document))
    (out / "prepared.json").write_text(
        json.dumps({"data_set": HOSTILE, "remarks": {"x": HOSTILE}, "options": {HOSTILE: 1}})
    )
    return audit(out, processes=0)


@pytest.fixture(scope="module")
def reading(result):
    read = Reading(page(result))
    assert read.open == []
    return read


def test_nothing_is_loaded_from_elsewhere(result, reading):
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in reading.tags}
    for tag, attributes in reading.tags:
        for key in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/jpeg;base64,")), (tag, attributes)
        assert not any(key.startswith("on") for key in attributes)
    assert not re.search(r"url\(|@import|https?:", page(result))


def test_every_picture_decodes_has_a_text_and_is_on_paper_too(reading):
    pictures = reading.all("img")
    assert pictures
    for attributes in pictures:
        assert attributes["alt"]
        assert "loading" not in attributes, "browsers print what is loaded lazily and not yet seen as empty"
        with Image.open(io.BytesIO(base64.b64decode(attributes["src"].split(",", 1)[1]))) as picture:
            assert picture.format == "JPEG"
            assert picture.size == (150, 200), "smaller than a thumbnail: as it is"


def test_masks_are_outlined_in_amber(result):
    masked = next(item.image for item in result.lists[0].items if item.mask)
    with Image.open(io.BytesIO(result.pictures[masked])) as picture:
        red, blue = (np.asarray(picture).astype(int)[..., channel] for channel in (0, 2))
    rows, columns = np.nonzero(red - blue > 150)
    assert 48 <= rows.min() <= 52
    assert 48 <= columns.min() <= 52
    assert 98 <= rows.max() <= 102


def test_texts_of_datalists_are_shown_and_not_obeyed(result, reading):
    assert HOSTILE in reading.text
    assert '"><b>CC' in reading.text
    assert HOSTILE not in page(result)


def test_findings_stand_under_their_severity_with_explanation_files_and_remedy(reading):
    assert [attributes["id"] for attributes in reading.all("section")[:3]] == ["error", "warning", "note"]
    assert "Not safe to train on" in reading.text
    for words in (
        "Missing files",
        "Patients in two splits",
        "What helps:",
        "the image does not exist",
        "image & 1.png",
    ):
        assert words in reading.text


def test_labels_are_called_what_they_mean(result, tmp_path):
    shown = [part for caption in captions(page(result)) for part in caption.split(" · ")]
    assert {"complete", "incomplete"} <= set(shown)
    assert not {"label 0", "label 1"} & set(shown)
    image = np.random.default_rng(1).integers(0, 255, (200, 150), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    entries = [{"image": "image.png", "label": label, "patient": "P"} for label in (1, 7)]
    (tmp_path / "dataset.json").write_text(
        json.dumps({"training": entries[:1], "test": entries[1:], "labels": {"1": "of another task"}})
    )
    own = page(audit(tmp_path, processes=0))
    assert {"P · of another task", "P · label 7"} <= set(captions(own))
    assert "label <b>of another task</b>" in own


def captions(text):
    """What stands below the pictures."""
    return [unescape(words) for words in re.findall("<figcaption>(.*?)</figcaption>", text)]


def test_contact_sheets_are_capped_and_say_so(result, reading):
    assert f"{SHEET} of 30 images" in reading.text
    assert page(result) == page(result)


def test_counts_stand_in_tables_that_a_screen_reader_can_follow(reading):
    assert len(reading.all("table")) == len(reading.all("caption"))
    assert all(attributes.get("scope") in ("col", "row") for attributes in reading.all("th"))
    assert {"training", "validation", "test", "patients", "images"} <= set(re.findall(r"\w+", reading.text))


def test_the_page_has_a_light_and_a_dark_form_and_says_what_is_not_checked(result):
    text = page(result)
    assert "color-scheme: light dark" in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert all(escape(line.split(".")[0]) in text for line in NOT_CHECKED)


def test_hundreds_of_files_with_one_fault_share_a_row_that_names_the_first_and_unfolds_the_others(tmp_path):
    entries = [{"image": f"gone{number}.png", "label": 0, "patient": str(number)} for number in range(600)]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": entries}))
    result = audit(tmp_path, processes=0)
    assert sum(finding.check == "missing" for finding in result.findings) == 600
    read = Reading(page(result))
    assert read.open == []
    assert read.text.count("the image does not exist") == 1
    for words in ("(600 files)", "gone0.png", "and 592 more", f"gone{MORE + 7}.png", "and 92 more in audit.json"):
        assert words in read.text
    assert "gone599.png" not in read.text


def test_copies_stand_side_by_side_in_their_row(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (200, 150), dtype=np.uint8)
    for name in ("one.png", "other.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    entries = [{"image": name, "label": 0, "patient": name} for name in ("one.png", "other.png")]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": entries}))
    text = page(audit(tmp_path, processes=0))
    (row,) = [row for row in text.split("<tr>") if "2 files, within training" in row]
    assert row.split("</tr>")[0].count("<img") == 2


@pytest.mark.parametrize("document", [{}, {"training": [], "validation": [], "test": []}])
def test_an_empty_data_set_has_a_page_that_says_it_is_of_no_use(tmp_path, document):
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    read = Reading(page(audit(tmp_path, processes=0)))
    assert read.open == []
    assert "Not safe to train on: 2 errors" in read.text
    assert "training has no entry" in read.text
    assert not read.all("img")
