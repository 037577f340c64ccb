"""Several people at once: nobody is given what another has in hand, and what each did is on record."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from lib.activity import Activity, RecordActivity, person
from lib.datastore import MammogramDatastore
from lib.errors import RequestRefused
from lib.files import DamagedRecord
from lib.users import ANYBODY, current_user
from lib.worklist import Worklist
from main import MammoApp
from PIL import Image
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from .conftest import APP, blob, write_dicom, write_png

CASES = ("P1", "P2", "P3")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.minutes = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return 60 * self.minutes


@pytest.fixture
def clock() -> Clock:
    """At zero."""
    return Clock()


@pytest.fixture
def datastore(tmp_path: Path) -> MammogramDatastore:
    """Three cases of two images."""
    for patient in (1, 2, 3):
        for number in (1, 2):
            write_dicom(tmp_path / "studies" / f"P{patient}" / f"{number}.dcm", blob()[0], patient=patient)
    return MammogramDatastore(tmp_path / "studies")


@pytest.fixture
def worklist(tmp_path: Path, datastore: MammogramDatastore, clock: Clock) -> Worklist:
    """Leases of thirty minutes."""
    return Worklist(tmp_path / "worklist.json", datastore, clock=clock)


def first(store: MammogramDatastore) -> dict[str, Any] | None:
    """A strategy that knows nothing of leases: the first image without a label."""
    return next(({"id": image_id} for image_id in sorted(store.get_unlabeled_images())), None)


def anything(store: MammogramDatastore) -> dict[str, Any] | None:
    """Another one: any image without a label."""
    unlabelled = store.get_unlabeled_images()
    return {"id": random.choice(unlabelled)} if unlabelled else None


def case_of(sample: dict[str, Any] | None) -> str:
    """The case of what was handed out."""
    assert sample is not None
    return str(sample["id"]).partition("-")[0]


def label(store: MammogramDatastore, image_id: str, folder: Path) -> None:
    """Save an empty final label."""
    file = folder / "empty.png"
    Image.fromarray(np.zeros(blob()[0].shape, np.uint8)).save(file)
    store.save_label(image_id, str(file), "final", {})


@pytest.mark.parametrize("strategy", [first, anything])
def test_two_annotators_get_different_cases_whatever_the_strategy(worklist: Worklist, strategy: Any) -> None:
    cases = {user: {case_of(worklist.choose(user, strategy)) for _ in range(2)} for user in ("ann", "bea", "cid")}
    assert sorted(case for held in cases.values() for case in held) == sorted(CASES)


def test_all_images_of_a_case_go_to_one_annotator_one_after_the_other(worklist: Worklist) -> None:
    given = [worklist.choose("ann", first)["id"] for _ in range(4)]
    assert given == ["P1-1", "P1-2", "P2-1", "P2-2"]


def test_the_next_case_can_be_asked_for_while_one_is_open(worklist: Worklist) -> None:
    given = [worklist.choose("ann", first, next_case=True)["id"] for _ in range(5)]
    assert given == ["P1-1", "P2-1", "P3-1", "P1-2", "P2-2"]


def test_a_dicom_viewer_is_given_nothing_that_it_cannot_open(worklist: Worklist, datastore: MammogramDatastore) -> None:
    write_png(Path(datastore.get_image_uri("P1-1")).with_name("0.png"), blob()[0])
    datastore.refresh()
    assert "P1-0" in datastore.get_unlabeled_images()
    chosen = worklist.choose("ann", first, dicom=True)
    assert chosen
    assert chosen["id"] == "P1-1"


def test_what_was_skipped_comes_again_once_nothing_else_is_left(worklist: Worklist) -> None:
    given = [worklist.choose("ann", first)["id"] for _ in range(7)]
    assert len(set(given[:6])) == 6
    assert given[6] == "P1-1"


def test_when_others_have_everything_in_hand_the_refusal_says_until_when(worklist: Worklist) -> None:
    for user in ("ann", "bea", "cid"):
        worklist.choose(user, first)
    with pytest.raises(RequestRefused, match="1970-01-01T00:30:00") as refused:
        worklist.choose("dan", first)
    assert refused.value.status == 409


def test_a_case_that_is_finished_becomes_free_for_nobody(
    worklist: Worklist, datastore: MammogramDatastore, clock: Clock, tmp_path: Path
) -> None:
    for image_id in ("P1-1", "P1-2"):
        label(datastore, image_id, tmp_path)
    worklist.active("ann", "P1-1")  # looks at it again
    clock.minutes = 10
    for user in ("bea", "cid"):
        worklist.choose(user, first)
    with pytest.raises(RequestRefused) as refused:
        worklist.choose("dan", first)
    assert "1970-01-01T00:40:00" in refused.value.remedy


def test_a_lease_ends_after_half_an_hour_without_activity_and_goes_on_with_it(worklist: Worklist, clock: Clock) -> None:
    worklist.choose("ann", first)
    clock.minutes = 29
    worklist.active("ann", "P1-2")
    clock.minutes = 58
    assert case_of(worklist.choose("bea", first)) == "P2"
    clock.minutes = 60
    assert case_of(worklist.choose("cid", first)) == "P1"


def test_a_clock_that_was_ahead_keeps_no_case_from_others(worklist: Worklist, clock: Clock) -> None:
    clock.minutes = 3 * 366 * 24 * 60
    worklist.choose("ann", first)
    clock.minutes = 0
    assert case_of(worklist.choose("bea", first)) == "P1"
    clock.minutes = -1
    assert case_of(worklist.choose("cid", first)) == "P2", "set back by a moment it changes nothing"


def test_anothers_activity_takes_nothing_from_who_has_the_case(worklist: Worklist, clock: Clock) -> None:
    worklist.choose("ann", first)
    worklist.active("bea", "P1-1")
    assert [lease["user"] for lease in worklist.in_work()] == ["ann"]
    assert [lease["case"] for lease in worklist.in_work()] == [worklist.datastore.image("P1-1").study]
    clock.minutes = 31
    worklist.active("bea", "P1-1")
    assert [lease["user"] for lease in worklist.in_work()] == ["bea"]


def test_what_somebody_without_a_name_does_counts_for_who_has_the_case(worklist: Worklist, clock: Clock) -> None:
    """Slicer names nobody while no tokens are set, though Next sample named its user."""
    worklist.choose("ann", first)
    clock.minutes = 29
    worklist.active(ANYBODY, "P1-2")
    clock.minutes = 58
    assert [lease["user"] for lease in worklist.in_work()] == ["ann"]


def test_who_opens_a_case_by_hand_has_it(worklist: Worklist) -> None:
    worklist.active("ann", "P1-1")
    assert case_of(worklist.choose("bea", first)) == "P2"


def test_a_case_is_free_of_its_lease_once_its_last_label_is_saved(
    worklist: Worklist, datastore: MammogramDatastore, tmp_path: Path
) -> None:
    worklist.choose("ann", first)
    for image_id in ("P1-1", "P1-2"):
        assert [lease["user"] for lease in worklist.in_work()] == ["ann"]
        label(datastore, image_id, tmp_path)
        worklist.submitted("ann", image_id)
    assert worklist.in_work() == []
    assert case_of(worklist.choose("ann", first)) == "P2"


def test_a_case_handed_back_is_free_at_once_and_only_its_holder_may_do_so(worklist: Worklist) -> None:
    worklist.choose("ann", first)
    with pytest.raises(RequestRefused, match="another person"):
        worklist.hand_back("bea", "P1-1")
    worklist.hand_back("ann", "P1-2")
    assert case_of(worklist.choose("bea", first)) == "P1"


def test_who_has_proved_the_name_of_everybody_holds_nobody_elses_case(worklist: Worklist) -> None:
    def proved() -> None:
        current_user.set(ANYBODY)
        with pytest.raises(RequestRefused, match="another person"):
            worklist.hand_back(ANYBODY, "P1-1")

    worklist.choose("ann", first)
    copy_context().run(proved)
    worklist.hand_back(ANYBODY, "P1-1")  # while nobody has to say who they are


def test_with_all_labels_saved_there_is_nothing_to_hand_out(
    worklist: Worklist, datastore: MammogramDatastore, tmp_path: Path
) -> None:
    for image_id in datastore.list_images():
        label(datastore, image_id, tmp_path)
    assert worklist.choose("ann", first) is None


def test_leases_hold_over_a_restart(worklist: Worklist, datastore: MammogramDatastore, clock: Clock) -> None:
    worklist.choose("ann", first)
    again = Worklist(worklist.file, datastore, clock=clock)
    assert case_of(again.choose("bea", first)) == "P2"


@pytest.mark.parametrize("content", ['{"P1": {"us', '{"P1": {"user": "ann"}}'])
def test_a_damaged_file_of_leases_is_named_and_left_for_a_person_to_mend(worklist: Worklist, content: str) -> None:
    worklist.file.write_text(content)
    with pytest.raises(DamagedRecord, match="move it away"):
        worklist.choose("ann", first)
    assert worklist.file.read_text() == content


def test_many_at_the_same_moment_get_each_their_own_case(tmp_path: Path) -> None:
    for number in range(12):
        write_png(tmp_path / "studies" / f"{number}.png", np.zeros((8, 8)))
    store = MammogramDatastore(tmp_path / "studies")

    def ask(number: int) -> str:
        separate = Worklist(tmp_path / "worklist.json", store)  # as in processes of their own
        chosen = separate.choose(f"user{number}", first)
        assert chosen is not None
        return str(chosen["id"])

    with ThreadPoolExecutor(12) as together:
        assert len(set(together.map(ask, range(12)))) == 12


def test_a_strategy_that_fails_leases_nothing(worklist: Worklist) -> None:
    def broken(_: MammogramDatastore) -> dict[str, Any]:
        raise RequestRefused(503, "no scores yet", "Wait")

    with pytest.raises(RequestRefused, match="no scores"):
        worklist.choose("ann", broken)
    assert worklist.in_work() == []


def test_the_app_leases_for_every_strategy_and_puts_it_on_record(tmp_path: Path) -> None:
    for number in range(3):
        write_png(tmp_path / "studies" / f"{number}.png", np.zeros((8, 8)))
    app = MammoApp(str(APP), str(tmp_path / "studies"), {"weights": str(tmp_path), "lease_minutes": "5"})
    given = [app.next_sample({"strategy": "random", "client_id": name})["id"] for name in ("Ann B.", "bea", "cid")]
    assert sorted(given) == ["0", "1", "2"]
    lines = [json.loads(line) for line in (tmp_path / "studies/labels/.activity.jsonl").read_text().splitlines()]
    assert [(line["user"], line["action"], line["image"]) for line in lines] == [
        (user, "handed out", image) for user, image in zip(("Ann-B", "bea", "cid"), given, strict=True)
    ]


@pytest.mark.parametrize(
    ("proved", "named", "found"),
    [
        (None, None, ANYBODY),
        (None, "user-xyz", "user-xyz"),
        (None, "../../etc/passwd\n", "etc-passwd"),
        (None, "…", ANYBODY),
        (None, {"$": 1}, ANYBODY),
        ("ann", "bea", "ann"),
        (ANYBODY, "bea", ANYBODY),
    ],
)
def test_who_asks_is_who_proved_it_and_only_else_whom_the_client_names(
    proved: str | None, named: Any, found: str
) -> None:
    def asked() -> str:
        if proved:
            current_user.set(proved)
        return person({"client_id": named})

    assert copy_context().run(asked) == found


@pytest.fixture
def recorded(tmp_path: Path, worklist: Worklist) -> tuple[TestClient, Path]:
    """A server with MONAI Label's routes, and its record."""

    def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse("", status_code=int(request.query_params.get("status", "200")))

    file = tmp_path / "activity.jsonl"
    server = FastAPI(middleware=[Middleware(RecordActivity, activity=Activity(file, worklist))])
    for route in ("/datastore/label", "/datastore/image/info", "/infer/{model}", "/activelearning/{strategy}"):
        server.add_api_route(route, answer, methods=["GET", "PUT", "POST", "DELETE"])
    return TestClient(server), file


def test_the_record_has_who_when_what_and_which_image_of_all_that_was_fulfilled(
    recorded: tuple[TestClient, Path], worklist: Worklist
) -> None:
    client, file = recorded
    client.post("/infer/quality", params={"image": "P1-1"})
    client.put("/datastore/label", params={"image": "P1-1", "tag": "final"})
    client.put("/datastore/image/info", params={"image": "P2-1"})
    client.delete("/datastore/label", params={"id": "P3-1", "tag": "final"})
    client.post("/infer/quality", params={"image": "/etc/passwd"})
    client.put("/datastore/label", params={"image": "P1-1", "status": 422})
    client.get("/datastore/label", params={"label": "P1-1"})
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["action"], line["image"]) for line in lines] == [
        ("inference", "P1-1"),
        ("label saved", "P1-1"),
        ("image's info changed", "P2-1"),
        ("label removed", "P3-1"),
        ("inference", None),
    ]
    assert all(line["user"] == ANYBODY and line["time"].endswith("+00:00") for line in lines)
    assert "passwd" not in file.read_text()
    assert len(worklist.in_work()) == 2


def test_a_line_torn_by_a_crash_spoils_itself_only(recorded: tuple[TestClient, Path]) -> None:
    client, file = recorded
    file.write_text('{"time": "2026-01-01T00:00:00+00:00", "us')
    client.post("/infer/quality", params={"image": "P1-1"})
    torn, whole = file.read_text().splitlines()
    assert json.loads(whole)["image"] == "P1-1"
    assert torn.endswith('"us')
