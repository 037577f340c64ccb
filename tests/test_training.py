"""What a killed or resumed training leaves behind."""

import os
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.training import (
    BestWeights,
    CheckpointLoader,
    all_validated,
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


def test_a_checkpoint_that_the_training_removes_meanwhile_ends_nobody_who_looks(tmp_path):
    """A benchmark looks every second how far its training is; once it met the moment, and ended the training."""
    torch.save({"epoch": torch.tensor(2)}, tmp_path / "checkpoint_epoch=2.pt")
    (tmp_path / "checkpoint_epoch=1.pt").symlink_to(tmp_path / "gone")  # listed, and not there
    assert latest_checkpoint(tmp_path) == str(tmp_path / "checkpoint_epoch=2.pt")
    (tmp_path / "checkpoint_epoch=2.pt").unlink()
    assert latest_checkpoint(tmp_path) == ""


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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_training_that_has_diverged_ends_and_its_best_weights_stay(tmp_path, value):
    """A mask made of NaN is empty: its Dice is a good number, 0, which once chose the weights."""
    network = torch.nn.BatchNorm1d(1)
    keeper = BestWeights(network, tmp_path / "model.pt")
    keeper(evaluator_with(0.0))
    kept = (tmp_path / "model.pt").read_bytes()
    network.running_var.fill_(value)
    with pytest.raises(MammogramError, match=r"model\.pt: the training has diverged: 1 of 5 .*Lower the learning rate"):
        keeper(evaluator_with(0.0))
    assert (tmp_path / "model.pt").read_bytes() == kept


def test_a_resumed_run_remembers_what_it_has_to_beat(tmp_path):
    first = BestWeights(torch.nn.Linear(1, 1), tmp_path / "model.pt")
    first(evaluator_with(0.9))
    kept = (tmp_path / "model.pt").read_bytes()
    second = BestWeights(torch.nn.Linear(1, 1), tmp_path / "model.pt")
    second.load_state_dict(first.state_dict())
    second(evaluator_with(0.8))
    assert (tmp_path / "model.pt").read_bytes() == kept


class Run:
    """A training of one-step schedules, with what a config's `run_state` keeps of it."""

    def __init__(self, steps: int, learning_rate: float = 0.1, features: int = 1) -> None:
        network = torch.nn.Linear(features, 1)
        optimizer = torch.optim.Adam(network.parameters(), learning_rate)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 - epoch / 5)
        self.seen: list[int] = []
        self.trainer = Engine(lambda _, image: self.seen.append(image))
        self.steps = steps
        self.state = {"network": network, "optimizer": optimizer, "scheduler": scheduler, "trainer": self.trainer}

    def go(self, epochs: int) -> None:
        self.trainer.run(range(self.steps), max_epochs=epochs)

    def kept(self, file: Path) -> Path:
        torch.save({name: part.state_dict() for name, part in self.state.items()}, file)
        return file

    def go_on_from(self, file: Path) -> None:
        CheckpointLoader(str(file), self.state).attach(self.trainer)


@pytest.mark.parametrize("steps", [2, 5])
def test_a_run_that_goes_on_with_more_or_fewer_images_sees_each_of_them_once_an_epoch(tmp_path, steps):
    first = Run(steps=3)
    first.go(epochs=1)
    second = Run(steps=steps)
    second.go_on_from(first.kept(tmp_path / "checkpoint_epoch=1.pt"))
    second.go(epochs=3)
    assert second.seen == [*range(steps)] * 2
    assert (second.trainer.state.epoch, second.trainer.state.iteration) == (3, 3 * steps)


def test_a_learning_rate_that_the_checkpoint_would_replace_is_refused_and_the_schedules_own_is_not(tmp_path):
    first = Run(steps=1)
    first.state["optimizer"].step()
    first.state["scheduler"].step()  # its rate is 0.08 by now
    file = first.kept(tmp_path / "checkpoint_epoch=1.pt")
    again, other = Run(steps=1), Run(steps=1, learning_rate=0.001)
    again.go_on_from(file)
    again.go(epochs=1)
    assert again.state["optimizer"].param_groups[0]["lr"] == pytest.approx(0.08)
    other.go_on_from(file)
    with pytest.raises(
        MammogramError, match=r"epoch=1\.pt: .* has the learning rate 0\.1, not 0\.001.*--learning_rate 0\.1"
    ):
        other.go(epochs=1)


def test_weights_to_begin_with_that_are_of_another_network_are_named(tmp_path):
    file = tmp_path / "former.pt"
    torch.save(torch.nn.Linear(2, 1).state_dict(), file)
    run = Run(steps=1)
    CheckpointLoader(str(file), {"network": run.state["network"]}).attach(run.trainer)
    with pytest.raises(MammogramError, match=r"former\.pt: these weights are not of this network \(Linear\)"):
        run.go(epochs=1)


@pytest.mark.parametrize(("epochs", "val_interval"), [(3, 2), (3, 5), (3, 0)])
def test_no_training_begins_whose_last_epoch_would_not_be_validated(epochs, val_interval):
    """It ended well, and with the weights that lay there before."""
    with pytest.raises(MammogramError, match=r"val_interval: .*divisor"):
        all_validated(epochs, val_interval)
    assert all_validated(6, 3) == 6
