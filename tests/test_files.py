"""Files written whole or not at all: what errors, other writers and the umask make of them."""

import json
import os
from pathlib import Path

import pytest

from monai_mammo.files import replacing, write_json


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "model.pt"
    file.write_text("former")
    return file


def test_a_write_that_fails_leaves_the_former_file_and_nothing_beside_it(file):
    def write() -> None:
        with replacing(file) as partial:
            partial.write_text("ha")
            raise OSError(28, "no space left")

    with pytest.raises(OSError, match=r"no space left.*model\.pt"):
        write()
    assert file.read_text() == "former"
    assert list(file.parent.iterdir()) == [file]


def test_json_is_written_whole_or_not_at_all(file):
    write_json(file, {"training": [1]})
    with pytest.raises(TypeError):
        write_json(file, {"training": [object()]})
    assert json.loads(file.read_text()) == {"training": [1]}


def test_until_the_end_readers_see_the_former_file_and_no_search_finds_the_new_one(file):
    with replacing(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "former"
        assert list(file.parent.glob("*.pt")) == [file]
    assert file.read_text() == "new"


def test_two_writers_at_once_do_not_meet_and_the_last_one_counts(file):
    with replacing(file) as first:
        first.write_text("first")
        with replacing(file) as second:
            second.write_text("second")
        assert file.read_text() == "second"
    assert file.read_text() == "first"
    assert list(file.parent.iterdir()) == [file]


def test_a_file_is_as_readable_as_its_writer_s_others_and_its_folder_is_made(tmp_path):
    former = os.umask(0o027)
    try:
        with replacing(tmp_path / "models" / "new.pt") as partial:
            partial.write_text("new")
    finally:
        os.umask(former)
    assert (tmp_path / "models" / "new.pt").stat().st_mode & 0o777 == 0o640
