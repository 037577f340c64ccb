"""What a killed or resumed training leaves behind."""

import os

import pytest
import torch
from ignite.engine import Engine

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.training import (
    BestWeights,
    checkpoint_to_resume,
    latest_checkpoint,
)


def evaluator_with(metric: float) -> Engine:
    engine = Engine(lambda *_: None)
    engine.state.metrics = {"dice": metric}
    engine.state.key_metric_name = "dice"
    return engine


def test_the_newest_whole_checkpoint_counts_by_number_not_by_name(tmp_path):
    for epoch in (9, 10, 11):
        torch.save({"epoch": torch.tensor(epoch)}, tmp_path / f"checkpoint_epoch={epoch}.pt")
    (tmp_path / "checkpoint_epoch=11.pt").write_bytes(b"torn")
    assert latest_checkpoint(tmp_path) == str(tmp_path / "checkpoint_epoch=10.pt")
    assert latest_checkpoint(tmp_path / "nowhere") == ""


def test_a_longer_run_that_was_in_the_folder_before_is_not_gone_on_with(tmp_path):
    for age, epoch in ((30, 3), (20, 4), (10, 1)):
        file = tmp_path / f"checkpoint_epoch={epoch}.pt"
        torch.save({"epoch": torch.tensor(epoch)}, file)
        os.utime(file, ns=(0, 10**18 - age))
    assert latest_checkpoint(tmp_path) == str(tmp_path / "checkpoint_epoch=1.pt")


def test_it_is_said_when_later_epochs_in_the_folder_are_passed_over(tmp_path, caplog):
    """As of a folder that was copied, whose files' times say nothing."""
    for age, epoch in ((20, 2), (10, 1)):
        file = tmp_path / f"checkpoint_epoch={epoch}.pt"
        torch.save({}, file)
        os.utime(file, ns=(0, 10**18 - age))
    assert checkpoint_to_resume(tmp_path, 5) == str(tmp_path / "checkpoint_epoch=1.pt")
    assert caplog.messages == ["going on from epoch 1: checkpoint_epoch=2.pt here is older, or torn"]
    caplog.clear()
    os.utime(tmp_path / "checkpoint_epoch=2.pt", ns=(0, 10**18))
    checkpoint_to_resume(tmp_path, 5)
    assert caplog.messages == []


def test_a_run_is_gone_on_with_to_no_fewer_epochs_than_it_has_had(tmp_path):
    torch.save({}, tmp_path / "checkpoint_epoch=17.pt")
    for epochs in (17, 20):
        assert checkpoint_to_resume(tmp_path, epochs) == str(tmp_path / "checkpoint_epoch=17.pt")
    with pytest.raises(MammogramError, match=r"has had 17 epochs already.*10.*Give --epochs above 17"):
        checkpoint_to_resume(tmp_path, 10)


def test_it_is_said_when_there_is_nothing_to_resume_from(tmp_path, caplog):
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "checkpoint_epoch=1.pt").write_bytes(b"torn")
    for folder in (tmp_path / "nowhere", tmp_path / "torn"):
        caplog.clear()
        assert checkpoint_to_resume(folder, 10) == ""
        (message,) = caplog.messages
        assert message == f"no whole checkpoint to resume from in {folder}: the training begins anew"


def test_the_best_weights_are_kept_and_of_equal_ones_the_last(tmp_path):
    network = torch.nn.Linear(1, 1)
    keeper = BestWeights(network, tmp_path / "models" / "model.pt")
    for metric, weight in ((0.5, 1.0), (0.4, 2.0), (float("nan"), 3.0), (0.6, 5.0), (0.6, 4.0), (0.5, 6.0)):
        torch.nn.init.constant_(network.weight, weight)
        keeper(evaluator_with(metric))
    assert torch.load(tmp_path / "models" / "model.pt", weights_only=True)["weight"].item() == 4.0
    assert [file.name for file in (tmp_path / "models").iterdir()] == ["model.pt"]


def test_a_run_whose_validation_can_choose_nothing_stops_and_says_so(tmp_path):
    """With one class there is no AUC; what lies in the bundle already must not pass for the run's own."""
    shipped = tmp_path / "model.pt"
    shipped.write_bytes(b"shipped")
    with pytest.raises(MammogramError, match=r"model\.pt: no weights are kept here: the validation's dice is not a"):
        BestWeights(torch.nn.Linear(1, 1), shipped)(evaluator_with(float("nan")))
    assert shipped.read_bytes() == b"shipped"


def test_a_resumed_run_remembers_what_it_has_to_beat(tmp_path):
    first = BestWeights(torch.nn.Linear(1, 1), tmp_path / "model.pt")
    first(evaluator_with(0.9))
    kept = (tmp_path / "model.pt").read_bytes()
    second = BestWeights(torch.nn.Linear(1, 1), tmp_path / "model.pt")
    second.load_state_dict(first.state_dict())
    second(evaluator_with(0.8))
    assert (tmp_path / "model.pt").read_bytes() == kept
