"""mini-MIAS: films, sides and patients from names, once each, whatever Info.txt repeats. Nothing is decoded."""

import pytest

from monai_mammo.datasets import mini_mias
from monai_mammo.dicom.errors import MammogramError

INFO = """\
The list below gives the films.
mdb001 G CIRC B 535 425 197
mdb002 G CIRC B 522 280 69
mdb003 D NORM
mdb005 F CIRC B 477 133 30
mdb005 F CIRC B 500 168 26
mdb059 F CIRC B *NOTE 1*
"""


@pytest.fixture
def source(tmp_path):
    (tmp_path / "Info.txt").write_text(INFO)
    for name in ("mdb001.png", "mdb002.pgm", "mdb005.png", "mdb059.png"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_sides_and_patients_follow_from_the_numbers(source):
    images = {image.image.name: image for image in mini_mias.images(source, [])}
    right, left = images["mdb001.png"], images["mdb002.pgm"]
    assert (right.laterality, left.laterality) == ("R", "L")
    assert right.patient == left.patient == "mias001"
    assert images["mdb059.png"].patient == "mias030"
    assert {image.view for image in images.values()} == {"MLO"}
    assert right.spacing == (0.2, 0.2)


def test_a_film_with_two_lesions_is_listed_once(source):
    names = [image.image.name for image in mini_mias.images(source, [])]
    assert names == ["mdb001.png", "mdb002.pgm", "mdb005.png", "mdb059.png"]


def test_a_listed_film_that_is_not_there_is_a_defect(source):
    defects = []
    mini_mias.images(source, defects)
    assert [(defect.file.name, defect.action) for defect in defects] == [("mdb003.png", "left out")]


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(MammogramError, match="the list of mini-MIAS is not there"):
        mini_mias.images(tmp_path, [])
    (tmp_path / "Info.txt").write_text("something else\n")
    with pytest.raises(MammogramError, match="it lists no film"):
        mini_mias.images(tmp_path, [])


def test_the_real_data_set(samples):
    defects = []
    images = mini_mias.images(samples / "mini-mias", defects)
    assert (len(images), len({image.patient for image in images})) == (322, 161)
    assert not defects
    assert sum(image.laterality == "R" for image in images) == 161
