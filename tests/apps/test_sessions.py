"""Sessions survive what crashes leave in their folder; MONAI Label's own clean-up does not start on it."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from lib.sessions import BoundedSessions


@pytest.fixture
def sessions(tmp_path: Path) -> BoundedSessions:
    """An empty folder of sessions of an hour."""
    (tmp_path / "sessions").mkdir()
    return BoundedSessions(str(tmp_path / "sessions"), 3600)


def add(sessions: BoundedSessions, folder: Path) -> str:
    """A session with a file."""
    file = folder / "image.png"
    file.write_bytes(b"pixels")
    return sessions.add_session(str(file))[0]


@pytest.mark.parametrize("left", [None, "", "{", "[1]", '{"image": "/gone"}'])
def test_what_an_interrupted_upload_or_a_crash_left_is_removed_and_hurts_nobody(
    sessions: BoundedSessions, tmp_path: Path, left: str | None
) -> None:
    good = add(sessions, tmp_path)
    bad = Path(sessions.store_path) / str(uuid.uuid4())
    bad.mkdir()
    if left is not None:
        (bad / "meta.info").write_text(left)
    again = BoundedSessions(sessions.store_path, 3600)  # after a restart
    assert again.remove_expired() == 1
    assert again.get_session(bad.name) is None
    assert not bad.exists()
    assert Path(again.get_session(good).image).read_bytes() == b"pixels"


def test_a_folder_that_is_no_session_is_left_alone(sessions: BoundedSessions) -> None:
    other = Path(sessions.store_path) / "notes"
    other.mkdir()
    assert sessions.remove_expired() == 0
    assert other.is_dir()


def test_an_expired_session_is_removed_also_after_a_restart(sessions: BoundedSessions, tmp_path: Path) -> None:
    name = add(sessions, tmp_path)
    file = Path(sessions.store_path) / name / "meta.info"
    file.write_text(json.dumps({**json.loads(file.read_text()), "last_access_ts": 1000}))
    assert BoundedSessions(sessions.store_path, 3600).remove_expired() == 1
    assert not file.exists()


def test_a_session_that_another_server_of_the_same_folder_uses_is_not_removed(
    sessions: BoundedSessions, tmp_path: Path
) -> None:
    name, other = add(sessions, tmp_path), BoundedSessions(sessions.store_path, 3600)
    other.get_session(name).last_access_ts = 1000  # when the other last knew of it
    assert sessions.get_session(name)
    assert other.remove_expired() == 0
    assert Path(sessions.get_session(name).image).read_bytes() == b"pixels"
