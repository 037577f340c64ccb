"""Images that users keep on the server for a while, outside the folder: few, and under names that cannot be guessed.

MONAI Label's sessions, bounded. Not here: the routes.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.utils.sessions import Sessions

from monai_mammo.files import replacing

SESSION_NAME = re.compile(r"[0-9a-f-]{36}")
MOST_SESSIONS = 64


class BoundedSessions(Sessions):
    """Sessions, of which those used longest ago are forgotten when there are too many. Several servers may share them.

    Args:
        store_path: folder in which they are kept; below the user's home if empty.
        expiry: seconds after which an unused session is forgotten.
    """

    def __init__(self, store_path: str, expiry: int) -> None:
        super().__init__(store_path, expiry)
        self._changing = FileLock(str(Path(self.store_path) / ".lock"))

    def get_session(self, session_id: str, update_ts: bool = True, fetch_cache: bool = True) -> Any:
        """The session of that name; None if there is none. A name that is none of ours reads no file."""
        if not SESSION_NAME.fullmatch(session_id):
            return None
        try:
            return super().get_session(session_id, update_ts, fetch_cache)
        except (ValueError, AttributeError, TypeError, FileNotFoundError):  # meta.info is none, or just gone
            return None

    def add_session(
        self, data_file: str, expiry: int = 0, uncompress: bool = False, session_id: str | None = None
    ) -> tuple[str, Any]:
        """Take a file in; it is moved, and never unpacked."""
        with self._changing:
            oldest_first = sorted(self, key=lambda name: self[name].last_access_ts)
            for name in oldest_first[: max(0, len(self) + 1 - MOST_SESSIONS)]:
                self.remove_session(name)
            added: tuple[str, Any] = super().add_session(data_file, max(0, expiry), False, str(uuid.uuid4()))
            return added

    def remove_expired(self) -> int:
        """Forget expired sessions, and what an interrupted upload or a crash left behind; how many there were.

        MONAI Label's own fails for good, and with it the start of the server, on one folder without `meta.info`.
        """
        folder, count = Path(self.store_path), 0
        for entry in os.scandir(folder) if folder.is_dir() else ():
            if not SESSION_NAME.fullmatch(entry.name) or not self._is_over(entry.name):
                continue
            with self._changing:  # one that is being added is not left behind
                if self._is_over(entry.name):
                    self.remove_session(entry.name)
                    count += 1
        return count

    def _is_over(self, name: str) -> bool:
        kept = self.get_session(name, update_ts=False, fetch_cache=False)  # another server may have used it since
        return kept is None or 0 < kept.expiry < time.time() - kept.last_access_ts

    def _write_meta_info(self, session_id: str, session_info: Any) -> None:
        with replacing(Path(self.store_path) / session_id / "meta.info") as partial:  # somebody may be reading it
            partial.write_text(session_info.to_str())
