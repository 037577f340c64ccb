"""Who works on which case, so that nobody is given what another has in hand.

A case is all images of a study (of a patient, where no study is known): one person annotates it, and sees all its
views. Whatever strategy chooses, it
chooses among what the worklist leaves it. Not here: the choice (`strategies`), and what is done with an image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

from filelock import FileLock

from monai_mammo.files import write_json

from .datastore import MammogramDatastore
from .errors import RequestRefused
from .files import read_json
from .users import is_anybody

LEASE_MINUTES = 30.0
LONGEST_LEASE = 366 * 24 * 60
"""Minutes that a lease may last at most."""
Choice = Callable[[MammogramDatastore], dict[str, Any] | None]


class Worklist:
    """Leases of cases to people, kept in a file: they hold over restarts, between threads and between processes.

    A case is leased to whom one of its images is handed out, or who works on one that nobody has. The lease lasts
    `minutes` from their last activity on it, and ends when no image of the case is without a final label, or when
    they hand it back.

    Args:
        file: where the leases are kept.
        datastore: the images.
        minutes: how long a case stays with somebody who does nothing.
        clock: seconds since the epoch.

    Raises:
        ValueError: the file is damaged.
    """

    def __init__(
        self,
        file: Path,
        datastore: MammogramDatastore,
        minutes: float = LEASE_MINUTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.file, self.datastore, self.seconds, self.clock = file, datastore, 60 * minutes, clock
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(file.with_name(f"{file.name}.lock"))
        self._valid()

    def choose(
        self, user: str, strategy: Choice, next_case: bool = False, dicom: bool = False
    ) -> dict[str, Any] | None:
        """Let a strategy choose an image for somebody, and lease its case to them.

        First come the images of cases that they have in hand and were not given yet, then free cases, last what they
        were given and left without a label.

        Args:
            user: who asks.
            strategy: chooses among the images of the datastore that it is given.
            next_case: leave the cases in hand for free ones, if there are any.
            dicom: only images of a DICOM study, the only ones that a DICOM viewer can open.

        Returns:
            what the strategy returns, with `lease_until`; None if every (DICOM) image has a final label.

        Raises:
            RequestRefused: whatever has no label is in other people's hands (409).
        """
        with self._lock:
            leases = self._valid()
            unlabelled = self.datastore.get_unlabeled_images()
            wanted = [image_id for image_id in unlabelled if not dicom or self.datastore.image(image_id).study]
            by_case = {image_id: self._case(image_id) for image_id in wanted}
            others = {case for case, lease in leases.items() if lease["user"] != user}
            own = {image_id for image_id, case in by_case.items() if case in leases and case not in others}
            given = {image_id for case in set(leases) - others for image_id in leases[case]["given"]}
            free = {image_id for image_id, case in by_case.items() if case not in leases}
            tiers = (free, own - given, own) if next_case else (own - given, free, own)
            left = next((tier for tier in tiers if tier), None)
            if left is None and by_case:
                raise self._all_in_work(leases[case] for case in set(by_case.values()))
            chosen = strategy(cast(MammogramDatastore, _Part(self.datastore, left or ())))
            if not chosen:
                return None
            until = self._lease(leases, user, str(chosen["id"]), given=True)
            self._save(leases)
            return {**chosen, "lease_until": _iso(until)}

    def active(self, user: str, image_id: str) -> None:
        """Somebody does something with an image: their lease begins or goes on; another's lease stays as it is.

        Where people need not say who they are, activity counts for whoever has the case.
        """
        with self._lock:
            leases = self._valid()
            holder = leases.get(self._case(image_id), {}).get("user", user)
            if holder == user or is_anybody(user):
                self._lease(leases, holder, image_id)
                self._save(leases)

    def submitted(self, user: str, image_id: str) -> None:
        """A final label was saved: the case is free of its lease once all its images have one."""
        case = self._case(image_id)
        if any(self._case(other) == case for other in self.datastore.get_unlabeled_images()):
            self.active(user, image_id)
        else:
            with self._lock:
                leases = self._valid()
                leases.pop(case, None)
                self._save(leases)

    def hand_back(self, user: str, image_id: str) -> None:
        """Somebody will not finish the case of an image: it is free for others at once.

        Raises:
            RequestRefused: another has it (409), or there is no such image (404).
        """
        with self._lock:
            leases, case = self._valid(), self._case(image_id)
            if leases.get(case, {}).get("user", user) != user and not is_anybody(user):
                raise RequestRefused(409, "another person has this case in hand", "Ask them to hand it back")
            leases.pop(case, None)
            self._save(leases)

    def in_work(self) -> list[dict[str, Any]]:
        """Who has what: `user`, `until`, the `images` given to them, and the `case`: the UID of a study, the pseudonym
        of a patient where no study is known."""
        return [
            {"user": lease["user"], "until": _iso(lease["until"]), "images": sorted(lease["given"]), "case": case}
            for case, lease in self._valid().items()
        ]

    def _lease(self, leases: dict[str, Any], user: str, image_id: str, given: bool = False) -> float:
        lease = leases.setdefault(self._case(image_id), {"user": user, "given": []})
        lease["until"] = self.clock() + self.seconds
        if given and image_id not in lease["given"]:
            lease["given"].append(image_id)
        return float(lease["until"])

    def _all_in_work(self, leases: Iterable[dict[str, Any]]) -> RequestRefused:
        first = min(lease["until"] for lease in leases)
        return RequestRefused(
            409,
            "others have everything in hand that has no label yet",
            f"Ask again later; the first case becomes free at {_iso(first)} if its annotator does nothing until then",
        )

    def _case(self, image_id: str) -> str:
        image = self.datastore.image(image_id)
        return image.study or image.patient

    def _valid(self) -> dict[str, Any]:
        now = self.clock()
        leases = read_json(self.file, _are_leases)
        # One that lasts longer is of a clock that was ahead; twice as long, for clocks are set back by moments, too.
        return {case: lease for case, lease in leases.items() if now < lease["until"] <= now + 2 * self.seconds}

    def _save(self, leases: dict[str, Any]) -> None:
        write_json(self.file, leases)


class _Part:
    """A datastore of which a strategy sees some of the unlabelled images only; everything else is as it is."""

    def __init__(self, datastore: MammogramDatastore, image_ids: Collection[str]) -> None:
        self._datastore, self._image_ids = datastore, image_ids

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Those of the unlabelled images that may be given out."""
        unlabelled = self._datastore.get_unlabeled_images(label_tag, labels)
        return [image_id for image_id in unlabelled if image_id in self._image_ids]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._datastore, name)


def _are_leases(leases: dict[str, Any]) -> bool:
    needed = {"user", "until", "given"}
    return all(isinstance(lease, dict) and needed <= lease.keys() for lease in leases.values())


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
