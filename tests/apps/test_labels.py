"""What readers said of an image: kept apart, none overwritten by another, whole even when a process is killed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from lib.errors import RequestRefused
from lib.labels import FINAL, Labels


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    return Labels(tmp_path / "labels")


def save(labels: Labels, content: str, reader: str = "ana", tag: str = FINAL, extension: str = ".nrrd") -> None:
    """Save a label with this content, which its info repeats."""
    source = labels.folder.parent / f"{threading.get_ident()}{extension}"
    source.write_text(content)
    labels.save("x.1", source, extension, tag, {"said": content}, reader)


def segment(labels: Labels, reader: str) -> None:
    """Put a SEG, which holds the reader's name, beside a final label."""
    source = labels.folder.parent / "source.dcm"
    source.write_text(reader)
    revision = labels.info("x.1", FINAL, reader)["revision"]
    assert labels.set_segmentation("x.1", reader, revision, source, f"1.2.{len(reader)}")


def said(labels: Labels, reader: str | None = None) -> tuple[str, str] | None:
    """The content of a final label, and what its info says of it."""
    file = labels.file("x.1", FINAL, reader)
    return (file.read_text(), labels.info("x.1", FINAL, reader)["said"]) if file else None


def test_the_latest_final_label_counts_and_every_reader_keeps_his(labels: Labels) -> None:
    for reader, content in (("ana", "a1"), ("ben", "b1"), ("cid", "c1"), ("ana", "a2")):
        save(labels, content, reader)
    again = Labels(labels.folder)
    assert said(again) == ("a2", "a2")
    assert [said(again, reader) for reader in ("ana", "ben", "cid", "dan")] == [
        ("a2", "a2"),
        ("b1", "b1"),
        ("c1",) * 2,
        None,
    ]
    assert again.readers("x.1") == ["ana", "ben", "cid"]
    assert again.labelled(FINAL) == {"x.1"}
    assert again.info("x.1", FINAL)["revision"] == 2


def test_another_tag_has_one_label_whoever_made_it(labels: Labels) -> None:
    save(labels, "by a model", "ana", tag="original")
    save(labels, "by another", "ben", tag="original")
    assert labels.tags() == ["original"]
    assert labels.readers("x.1") == []
    file = labels.file("x.1", "original")
    assert file
    assert file.read_text() == "by another"


def test_when_the_present_label_is_removed_the_latest_of_the_others_is_there_again(labels: Labels) -> None:
    save(labels, "a", "ana")
    save(labels, "b", "ben", extension=".nii.gz")
    labels.remove("x.1", FINAL)
    assert said(labels) == ("a", "a")
    labels.remove("x.1", FINAL)
    assert (said(labels), labels.readers("x.1"), labels.labelled(FINAL)) == (None, [], set())


@pytest.mark.parametrize(
    "order", [("cid", "ana", "ben", "dan"), ("ana", "dan", "ben", "cid"), ("ben", "cid", "ana", "dan")]
)
def test_of_several_others_the_latest_takes_the_place_of_a_removed_label_within_a_second_too(
    labels: Labels, order: tuple[str, ...]
) -> None:
    for reader in order:
        save(labels, f"by {reader}", reader)
    for reader in reversed(order):
        assert said(labels) == (f"by {reader}",) * 2
        labels.remove("x.1", FINAL)
    assert said(labels) is None


def test_the_last_labels_that_a_reader_replaced_or_removed_are_kept_but_no_labels_any_more(labels: Labels) -> None:
    for number in range(1, 8):
        save(labels, f"a{number}", "ana", extension=".nii.gz")
    labels.remove("x.1", FINAL)
    folder = labels.folder / ".former" / "ana" / "x.1"
    assert {file.name: file.read_text() for file in folder.glob("*.gz")} == {
        f"{number}.nii.gz": f"a{number}" for number in range(3, 8)
    }
    assert json.loads((folder / "7.json").read_text())["said"] == "a7"
    assert (labels.labelled(FINAL), labels.readers("x.1"), labels.tags()) == (set(), [], [FINAL])
    save(labels, "anew", "ana")
    assert labels.info("x.1", FINAL)["revision"] == 8, "no revision stands for two labels"


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process ends before that step on the disk, if there are so many."""
    steps = iter(range(100))
    replace, unlink = os.replace, Path.unlink

    def killing(do: Any) -> Any:
        def done(*args: Any, **kwargs: Any) -> Any:
            if next(steps) == step:
                raise Killed
            return do(*args, **kwargs)

        return done

    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(os, "replace", killing(replace))
        patched.setattr(Path, "unlink", killing(unlink))
        yield


@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz"])
@pytest.mark.parametrize("reader", ["ana", "ben"])
@pytest.mark.parametrize("step", range(14))
def test_killed_at_any_step_the_former_label_or_the_new_one_is_there_with_its_own_info(
    labels: Labels, monkeypatch: pytest.MonkeyPatch, step: int, reader: str, extension: str
) -> None:
    save(labels, "former", "ana")
    with killed_at(step, monkeypatch):
        save(labels, "new", reader, extension=extension)
    restarted = Labels(labels.folder)
    present = said(restarted)
    assert present in [("former", "former"), ("new", "new")]
    if reader == "ben":
        assert said(restarted, "ana") == ("former", "former")
        assert said(restarted, "ben") in [None, ("new", "new")]
    save(restarted, "newest", "ben")
    assert said(restarted) == ("newest", "newest")
    assert said(restarted, "ana") == (("former", "former") if reader == "ben" else present)


@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz"])
@pytest.mark.parametrize("step", range(20))
def test_a_removal_that_is_killed_at_any_step_leaves_that_label_or_the_other_readers(
    labels: Labels, monkeypatch: pytest.MonkeyPatch, step: int, extension: str
) -> None:
    save(labels, "a", "ana")
    segment(labels, "ana")
    save(labels, "b", "ben", extension=extension)
    segment(labels, "ben")
    with killed_at(step, monkeypatch):
        labels.remove("x.1", FINAL)
    restarted = Labels(labels.folder)
    assert said(restarted) in [("a", "a"), ("b", "b")]
    assert said(restarted, "ana") == ("a", "a")
    for reader in restarted.readers("x.1"):
        file = restarted.segmentation("x.1", reader)
        assert file is None or file.read_text() == reader
    if restarted.readers("x.1") == ["ben", "ana"]:
        restarted.remove("x.1", FINAL)
    assert (said(restarted), restarted.readers("x.1")) == (("a", "a"), ["ana"])


def test_a_label_that_a_failed_save_was_to_replace_is_removed_at_once(
    labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfile

    def full(source: Path, target: Path) -> None:
        if source.parent == labels.folder.parent:
            raise OSError(errno.ENOSPC, "full")
        copy(source, target)

    save(labels, "b", "ben")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", full)
        with pytest.raises(OSError, match="full"):
            save(labels, "a", "ana")
    labels.remove("x.1", FINAL)
    assert (said(labels), labels.readers("x.1")) == (None, [])


def test_readers_who_save_at_the_same_time_lose_nothing(labels: Labels) -> None:
    names = [f"reader{number}" for number in range(6)]
    stores = [labels, Labels(labels.folder)]
    threads = [
        threading.Thread(target=save, args=(stores[number % 2], name, name)) for number, name in enumerate(names)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(labels.readers("x.1")) == names
    assert [said(labels, name) for name in names] == [(name, name) for name in names]


def test_a_mask_that_somebody_has_deleted_keeps_no_other_reader_from_saving_and_removing(labels: Labels) -> None:
    save(labels, "a", "ana")
    (labels.folder / FINAL / "x.1.nrrd").unlink()
    save(labels, "b", "ben")
    assert said(labels) == ("b", "b")
    labels.remove("x.1", FINAL)
    assert said(labels) is None


def test_a_client_cannot_set_what_the_server_keeps(labels: Labels) -> None:
    save(labels, "mine")
    outside = labels.folder.parent / "outside.nrrd"
    outside.write_text("not a label")
    forged = {"name": "../../outside.nrrd", "incoming": "../../outside.nrrd", "reader": "ben", "revision": 99, "ok": 1}
    labels.update("x.1", FINAL, forged)
    info = labels.info("x.1", FINAL)
    assert (said(labels), info["reader"], info["revision"], info["ok"]) == (("mine", "mine"), "ana", 1, 1)


def test_labels_from_before_readers_were_told_apart_are_still_there(labels: Labels) -> None:
    (labels.folder / FINAL).mkdir()
    (labels.folder / FINAL / "x.1.nrrd").write_text("old")
    (labels.folder / FINAL / "x.1.json").write_text(json.dumps({"name": "x.1.nrrd", "ts": 1, "said": "old"}))
    (labels.folder / ".info").mkdir()
    (labels.folder / ".info" / "x.1.json").write_text(json.dumps({"quality": "complete", "note": "old"}))
    assert said(labels) == ("old", "old")
    save(labels, "new", "ben")
    assert said(labels, "annotator") == ("old", "old")
    assert labels.image_info("x.1")["quality"] == "complete"
    labels.update_image_info("x.1", {"quality": "incomplete"}, "ben")
    assert labels.image_info("x.1")["quality"] == "incomplete"
    assert labels.image_info("x.1")["note"] == "old"


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        (["ana complete"], "complete"),
        (["ana complete", "ana incomplete"], "incomplete"),
        (["ana complete", "ben incomplete"], "incomplete"),  # one each: the latest
        (["ana incomplete", "ben complete", "cid incomplete", "ben complete"], "incomplete"),
        (["ana incomplete", "ben complete", "ana None"], "complete"),
        (["ana incomplete", "ana None"], None),
    ],
)
def test_most_readers_decide_on_quality_and_the_latest_if_it_is_a_draw(
    labels: Labels, given: list[str], counts: str | None
) -> None:
    for entry in given:
        reader, verdict = entry.split()
        labels.update_image_info("x.1", {"quality": None if verdict == "None" else verdict}, reader)
    assert labels.image_info("x.1").get("quality") == counts


def test_a_verdict_that_is_none_is_refused_and_verdicts_of_others_cannot_be_sent(labels: Labels) -> None:
    for wrong in ("fine", 1, ["complete"], {"complete": 1}):
        with pytest.raises(RequestRefused):
            labels.update_image_info("x.1", {"quality": wrong}, "ana")
    labels.update_image_info("x.1", {"verdicts": {"ben": {"quality": "complete", "ts": 1}}, "note": "n"}, "ana")
    assert labels.image_info("x.1") == {"note": "n"}
