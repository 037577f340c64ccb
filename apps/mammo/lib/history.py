"""The weights that a model has had: in service, former, refused. Nothing that was ever in service is overwritten.

    <weights>/<model>.pt                         in service; absent: the bundle's own weights are
    <weights>/history/<model>/<number>/          one training: record.json, weights.pt, config.json, configs/ (the
                                                 bundle's), data/ (datalist, masks), all in one step
    <weights>/history/<model>/.run/              the training in progress; worthless once its process is gone (a failed
                                                 one leaves progress.json alone)
    <weights>/history/<model>/service.jsonl      which number came into service when, and by whom

Every step is one renaming, so a process that is killed at any moment leaves the weights in service whole, either the
former or the new ones. Not here: training, and the judgement (`gate`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from monai_mammo.files import replacing, sha256, write_json

from .errors import RequestRefused
from .files import Digests, append_json, read_json, read_json_lines

KEPT_ACCEPTED = 10
KEPT_REFUSED = 3
BUNDLES_OWN = 0


class ServiceChanged(Exception):  # noqa: N818 - a reason to compare again, not an error
    """Other weights have come into service since the candidate was compared with them."""


class History:
    """The trainings of one model, numbered from 1; number 0 stands for the bundle's own weights.

    Records stay for good; of the weights, those of the last `KEPT_ACCEPTED` accepted and `KEPT_REFUSED` refused
    candidates, and those in service.

    Args:
        served: the file with the weights in service.
    """

    def __init__(self, served: Path) -> None:
        self.served, self.model = served, served.stem
        self.folder = served.parent / "history" / self.model
        self.run = self.folder / ".run"
        self._digests = Digests()

    @contextmanager
    def exclusively(self, patience: float = 0) -> Iterator[None]:
        """Nobody else trains this model meanwhile, in no process; one that has just been killed needs some `patience`.

        Raises:
            RequestRefused: somebody does, longer than these seconds (409).
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".training.lock")
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            reason = f"{self.model} is being trained already, by another program"
            raise RequestRefused(409, reason, "Wait until that has ended") from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def training(self) -> Iterator[Path]:
        """The empty folder of a new training; one at a time, among all processes.

        Raises:
            RequestRefused: another training of this model is in progress (409).
        """
        with self.exclusively():
            shutil.rmtree(self.run, ignore_errors=True)
            self.run.mkdir()
            yield self.run

    def clear(self, kept: Path) -> None:
        """Delete what a training that failed has written, which may have filled the disk, but for this file."""
        for entry in self.run.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry != kept:
                entry.unlink(missing_ok=True)

    def in_service(self) -> str | None:
        """SHA-256 of the weights in service; None where these are the bundle's own, or none."""
        return self._digests.of(self.served) if self.served.is_file() else None

    def keep(self, record: dict[str, Any], compared_with: str | None) -> int:
        """Number the training in `run` (its `weights.pt` among it) and, if it was accepted, put it into service.

        Args:
            record: what is known of it; `outcome` is "accepted" or "refused".
            compared_with: SHA-256 of the weights that were in service during the comparison.

        Returns:
            its number.

        Raises:
            ServiceChanged: it was compared with other weights than those in service now; nothing has happened.
        """
        with self._service():
            if self.in_service() != compared_with:
                raise ServiceChanged
            self._keep_unknown()
            number = self._adopt(self.run, record)
            if record["outcome"] == "accepted":
                self._serve(number, record.get("user"))
            self._forget()
        return number

    def restore(self, number: int | None, user: str) -> int:
        """Put weights of the history into service: a number, or those before the present ones.

        Returns:
            the number.

        Raises:
            RequestRefused: there is no such number (404), its weights are not kept any more or are damaged (409), or
                there is nothing to go back to (409).
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._service():
            self._keep_unknown()
            chosen = self._former() if number is None else number
            if chosen != BUNDLES_OWN and chosen not in self._numbers():
                remedy = "GET /mammo/models/<model>/history lists them"
                raise RequestRefused(404, f"the model's history has no number {chosen}", remedy)
            self._serve(chosen, user)
        return chosen

    def latest(self) -> Path:
        """The folder of the last training that gave weights; there need not be one."""
        return self.folder / f"{max(self._numbers(), default=0):04d}"

    def entries(self) -> list[dict[str, Any]]:
        """All records, the newest first, with `number`, `serving` and whether the weights are kept (`restorable`)."""
        now = self.current()
        entries = []
        for number in reversed(self._numbers()):
            kept = (self.folder / f"{number:04d}" / "weights.pt").is_file()
            record = read_json(self.folder / f"{number:04d}" / "record.json")
            entries.append({"number": number, **record, "serving": number == now, "restorable": kept})
        return entries

    def current(self) -> int | None:
        """Number of the weights in service; None if somebody has put a file there that the history does not know."""
        sha256 = self.in_service()
        if sha256 is None:
            return BUNDLES_OWN
        same = [number for number in self._numbers() if self._recorded(number) == sha256]
        served = [entry["number"] for entry in self._services() if entry["number"] in same]
        return served[-1] if served else same[-1] if same else None

    def _serve(self, number: int, user: str | None) -> None:
        """Put a number's weights into service, in one step."""
        if number == BUNDLES_OWN:
            self.served.unlink(missing_ok=True)
        else:
            weights = self.folder / f"{number:04d}" / "weights.pt"
            if not weights.is_file():
                raise RequestRefused(409, f"the weights of number {number} are not kept any more", "Choose another one")
            with replacing(self.served) as partial:
                shutil.copyfile(weights, partial)
                if sha256(partial) != self._recorded(number):
                    raise RequestRefused(409, f"the weights of number {number} are damaged", "Choose another one")
        append_json(self.folder / "service.jsonl", {"date": now(), "number": number, "user": user})

    def _former(self) -> int:
        current = self.current()
        for entry in reversed(self._services()):
            number = int(entry["number"])
            if number != current and (
                number == BUNDLES_OWN or (self.folder / f"{number:04d}" / "weights.pt").is_file()
            ):
                return number
        if current == BUNDLES_OWN:
            raise RequestRefused(409, "there are no former weights", "Name a number of the history")
        return BUNDLES_OWN

    def _keep_unknown(self) -> None:
        """Take weights in that a person has put into service, so that they are not lost by being replaced."""
        if self.current() is not None:
            return
        found = self.folder / ".found"
        shutil.rmtree(found, ignore_errors=True)
        found.mkdir()
        shutil.copyfile(self.served, found / "weights.pt")
        number = self._adopt(found, {"outcome": "found", "reason": "a person had put these weights into service"})
        append_json(self.folder / "service.jsonl", {"date": now(), "number": number, "user": None})

    def _adopt(self, folder: Path, record: dict[str, Any]) -> int:
        """Complete a folder that has weights, and give it the next number in one step."""
        weights = folder / "weights.pt"
        with weights.open("rb") as written:
            os.fsync(written.fileno())
        about = {"date": now(), **record, "sha256": sha256(weights), "bytes": weights.stat().st_size}
        write_json(folder / "record.json", about)
        number = max(self._numbers(), default=0) + 1
        folder.rename(self.folder / f"{number:04d}")
        return number

    def _forget(self) -> None:
        """Delete the weights, not the records, that are beyond what is kept."""
        kept = {"accepted": KEPT_ACCEPTED, "found": KEPT_ACCEPTED, "refused": KEPT_REFUSED}
        for entry in self.entries():
            if not entry["restorable"]:
                continue
            kept[entry["outcome"]] -= 1
            if kept[entry["outcome"]] < 0 and not entry["serving"]:
                (self.folder / f"{entry['number']:04d}" / "weights.pt").unlink()

    def _numbers(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return sorted(int(entry.name) for entry in os.scandir(self.folder) if entry.is_dir() and entry.name.isdigit())

    def _recorded(self, number: int) -> str | None:
        return read_json(self.folder / f"{number:04d}" / "record.json").get("sha256")

    def _services(self) -> list[dict[str, Any]]:
        return read_json_lines(self.folder / "service.jsonl")

    def _service(self) -> FileLock:
        """Held while weights come into service, for moments only; not while a training computes."""
        return FileLock(self.folder / ".service.lock")


def now() -> str:
    """Date and time in UTC, to the second (ISO 8601)."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
