"""The images of the case that somebody has just been given, decoded before the first question about them comes.

Not here: where decoded images are kept (`monai_mammo.recent`).
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.recent import RECENT

from .datastore import MammogramDatastore
from .errors import RequestRefused

logger = logging.getLogger(__name__)

MOST_WAITING = 16
"""Images; what would wait longer is decoded when it is asked about."""


def decode(store: MammogramDatastore, image: str) -> None:
    """Decode an image, which is then at hand; one that cannot be decoded is noted as unreadable.

    Raises:
        RequestRefused: it cannot be decoded (422), or is refused as by `MammogramDatastore.readable_image`.
    """
    path = store.readable_image(image)
    try:
        RECENT.read(path)
    except MammogramError as error:
        store.report_unreadable(image, error.reason, error.remedy)
        raise RequestRefused(422, error.reason, error.remedy, store.image(image).file) from error


class DecodingAhead:
    """One thread that decodes what it is told, in turn."""

    def __init__(self, store: MammogramDatastore) -> None:
        self._store = store
        self._waiting: queue.Queue[str] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def decode(self, images: Iterable[str]) -> None:
        """Have these images decoded soon; nothing happens where none are kept."""
        if not RECENT.limit:
            return
        with self._starting:
            if self._thread is None or not self._thread.is_alive():  # whatever ended it does not end all decoding ahead
                self._thread = threading.Thread(target=self._work, name="ahead", daemon=True)
                self._thread.start()
        for image in images:
            try:
                self._waiting.put_nowait(image)
            except queue.Full:
                return

    def wait(self) -> None:
        """Until all that was told so far is done."""
        self._waiting.join()

    def _work(self) -> None:
        while True:
            image = self._waiting.get()
            try:
                decode(self._store, image)
            except (RequestRefused, OSError) as error:  # who asks about it will be told
                logger.info("An image was not decoded ahead: %s", type(error).__name__)
            finally:
                self._waiting.task_done()
