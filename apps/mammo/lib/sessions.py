"""Images that users keep on the server for a while, outside the folder: few, and under names that cannot be guessed.

MONAI Label's sessions, bounded. Not here: the routes.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import uuid
from pathlib import Path
from typing import Any

from monailabel.utils.sessions import Sessions

SESSION_NAME = re.compile(r"[0-9a-f-]{36}")
MOST_SESSIONS = 64


class BoundedSessions(Sessions):
    """Sessions, of which those used longest ago are forgotten when there are too many.

    Args:
        store_path: folder in which they are kept; below the user's home if empty.
        expiry: seconds after which an unused session is forgotten.
    """

    def __init__(self, store_path: str, expiry: int) -> None:
        super().__init__(store_path, expiry)
        self._changing = threading.Lock()

    def get_session(self, session_id: str, update_ts: bool = True, fetch_cache: bool = True) -> Any:
        """The session of that name; None if there is none. A name that is none of ours reads no file."""
        if not SESSION_NAME.fullmatch(session_id):
            return None
        return super().get_session(session_id, update_ts, fetch_cache)

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
        """Forget expired sessions, and what an interrupted upload left behind; how many there were."""
        folder = Path(self.store_path)
        if folder.is_dir():
            for entry in os.scandir(folder):
                if SESSION_NAME.fullmatch(entry.name) and self.get_session(entry.name, update_ts=False) is None:
                    with self._changing:  # one that is being added is not left behind
                        if self.get_session(entry.name, update_ts=False) is None:
                            shutil.rmtree(entry.path, ignore_errors=True)
        count: int = super().remove_expired()
        return count
