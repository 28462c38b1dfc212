from __future__ import annotations

import csv
import json
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

import torch
from torch import Tensor, nn

from wsisum_cli.errors import ModelError, UsageError
from wsisum_cli.training import loop


class Line:
    """Fit a line with dropout, so that the random state matters; a scale that is kept but not trained."""

    monitor: str | None = "held_out_error"
    higher_is_better = False

    def __init__(self, worse_after: int | None = None, size: int = 8) -> None:
        torch.manual_seed(3)
        self.module: nn.Module = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.Linear(16, 1))
        self.module.register_buffer("steps_done", torch.zeros((), dtype=torch.int64))
        rng = np.random.default_rng(0)
        self.x = torch.from_numpy(rng.normal(size=(64, 4)).astype(np.float32))
        self.y = self.x.sum(dim=1, keepdim=True)
        self.size, self.worse_after, self.evaluations = size, worse_after, 0

    def steps(self, processes: int) -> int:
        return 64 // (self.size * processes)

    def batches(self, epoch: int, process: int, processes: int) -> Iterator[dict[str, Tensor]]:
        order = np.random.default_rng((9, epoch)).permutation(64).reshape(-1, processes, self.size)[:, process]
        for rows in torch.from_numpy(order):
            yield {"x": self.x[rows], "y": self.y[rows]}

    def loss(self, model: nn.Module, batch: loop.Batch, share: float) -> dict[str, Tensor]:
        error = (model(batch["x"]) - batch["y"]).pow(2).mean()
        return {"loss": error, "share": torch.tensor(share)}

    def before_epoch(self, epoch: int) -> None:
        pass

    def after_step(self, share: float) -> None:  # noqa: ARG002 - the protocol's
        self.module.get_buffer("steps_done").add_(1)

    def evaluate(self) -> dict[str, float]:
        self.evaluations += 1
        if self.worse_after is not None and self.evaluations > self.worse_after:
            return {"held_out_error": 1e3 + self.evaluations}
        return {"held_out_error": float((self.module(self.x) - self.y).detach().pow(2).mean())}


class Interrupted(Exception):  # noqa: N818 - no error
    pass


def weights(task: Line) -> dict[str, Tensor]:
    return dict(task.module.state_dict())


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


SETTINGS = loop.Settings(epochs=6, learning_rate=0.02, seed=5, device="cpu")


def test_it_learns_and_writes_the_run_folder(tmp_path: Path):
    task = Line()
    before = task.evaluate()["held_out_error"]
    trained = loop.train(task, tmp_path, SETTINGS, {"model": "line"})
    assert trained.best["held_out_error"] < before / 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("checkpoint.pt", "configuration.json", "curves.png", "metrics.csv", "metrics.json"),
    ]
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["best_epoch"] == trained.best_epoch
    assert stored["epochs"][-1]["loss"] == pytest.approx(float(rows[-1]["loss"]), rel=1e-4)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "configuration.json").read_text()) == {"model": "line"}


def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(tmp_path: Path):
    whole = Line()
    loop.train(whole, tmp_path / "whole", SETTINGS, {})

    def interrupt(epoch: int, *_: object) -> None:
        if epoch == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        loop.train(Line(), tmp_path / "parts", SETTINGS, {}, interrupt)
    torch.manual_seed(77)  # whatever else drew in between
    resumed = Line()
    trained = loop.train(resumed, tmp_path / "parts", SETTINGS, {})
    assert_equal(weights(resumed), weights(whole))
    assert len(trained.metrics) == 6
    for name in ("metrics.csv", "metrics.json", "curves.png"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_other_seeds_give_other_weights(tmp_path: Path):
    tasks = [Line(), Line()]
    for seed, task in enumerate(tasks):
        loop.train(task, tmp_path / str(seed), loop.Settings(epochs=1, seed=seed, device="cpu"), {})
    assert not torch.equal(weights(tasks[0])["0.weight"], weights(tasks[1])["0.weight"])


def test_a_finished_run_is_not_trained_again(tmp_path: Path):
    first = Line()
    loop.train(first, tmp_path, SETTINGS, {})
    again = Line()
    epochs: list[int] = []
    trained = loop.train(again, tmp_path, SETTINGS, {}, lambda epoch, *_: epochs.append(epoch))
    assert epochs == []
    assert trained.best_epoch > 0
    assert_equal(weights(again), weights(first))


def test_it_stops_early_and_keeps_the_best_weights(tmp_path: Path):
    task = Line(worse_after=2)
    settings = loop.Settings(epochs=50, learning_rate=0.02, patience=3, device="cpu")
    trained = loop.train(task, tmp_path, settings, {})
    assert trained.stopped_early
    assert trained.best_epoch == 2
    assert len(trained.metrics) == 5
    assert weights(task)["steps_done"] == 2 * 8  # what the module held after the second epoch
    assert not task.module.training


def test_the_start_may_be_the_best(tmp_path: Path):
    task = Line(worse_after=1)
    start = {name: value.clone() for name, value in weights(task).items()}
    settings = loop.Settings(epochs=2, judge_start=True, device="cpu")
    trained = loop.train(task, tmp_path, settings, {})
    assert trained.best_epoch == 0
    assert "held_out_error" in trained.best
    assert_equal(weights(task), start)


def test_without_a_monitor_the_last_weights_stay(tmp_path: Path):
    task = Line(worse_after=0)
    task.monitor = None
    trained = loop.train(task, tmp_path, loop.Settings(epochs=3, patience=1, device="cpu"), {})
    assert trained.best_epoch == 3
    assert weights(task)["steps_done"] == 3 * 8


def test_another_configuration_is_refused(tmp_path: Path):
    settings = loop.Settings(epochs=1, device="cpu")
    loop.train(Line(), tmp_path, settings, {"width": 1, "data": "a"})
    with pytest.raises(UsageError, match=r"another configuration \(width differ"):
        loop.train(Line(), tmp_path, settings, {"width": 2, "data": "a"})


def test_a_checkpoint_with_foreign_pickles_is_refused(tmp_path: Path):
    settings = loop.Settings(epochs=1, device="cpu")
    loop.train(Line(), tmp_path, settings, {})
    ran = tmp_path / "ran"

    class Foreign:
        def __reduce__(self):
            return Path.touch, (ran,)

    torch.save({"module": Foreign(), "optimizer": {}, "state": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(ModelError, match=r"checkpoint\.pt: expected tensors and plain values.*would run code"):
        loop.train(Line(), tmp_path, settings, {})
    (tmp_path / "checkpoint.pt").write_bytes(pickle.dumps(Foreign()))
    with pytest.raises(ModelError, match=r"checkpoint\.pt"):
        loop.train(Line(), tmp_path, settings, {})
    assert not ran.exists()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[: len(data) // 2], id="cut short"),
        pytest.param(lambda data: b"no checkpoint at all", id="text"),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage):
    settings = loop.Settings(epochs=1, device="cpu")
    loop.train(Line(), tmp_path, settings, {})
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match=r"checkpoint\.pt"):
        loop.train(Line(), tmp_path, settings, {})


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path):
    settings = loop.Settings(epochs=1, device="cpu")
    loop.train(Line(), tmp_path, settings, {})
    other = Line()
    other.module = nn.Linear(4, 1)
    with pytest.raises(ModelError, match="weights are of another model"):
        loop.train(other, tmp_path, settings, {})
    torch.save({"model": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(ModelError, match="no checkpoint of a run here"):
        loop.train(Line(), tmp_path, settings, {})


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path):
    task = Line()
    task.y[0] = float("nan")
    with pytest.raises(ModelError, match=r"epoch 1: the loss is not finite.*learning-rate"):
        loop.train(task, tmp_path, loop.Settings(epochs=2, device="cpu"), {})
    assert not (tmp_path / "checkpoint.pt").exists()


def test_bf16_trains_too(tmp_path: Path):
    task = Line()
    before = task.evaluate()["held_out_error"]
    settings = loop.Settings(epochs=6, learning_rate=0.02, precision="bf16", device="cpu")
    assert loop.train(task, tmp_path, settings, {}).best["held_out_error"] < before
    assert weights(task)["0.weight"].dtype == torch.float32


@pytest.mark.parametrize(("wrong", "said"), [({"precision": "fp8"}, "precision"), ({"device": "tpu"}, "device")])
def test_unknown_settings_are_refused(tmp_path: Path, wrong: dict[str, str], said: str):
    with pytest.raises(UsageError, match=said):
        loop.train(Line(), tmp_path, loop.Settings(**{"epochs": 1, "device": "cpu", **wrong}), {})


def test_the_learning_rate_warms_up_and_falls():
    rates = [loop.rate(share, 0.1) for share in np.linspace(0, 1, 101)]
    assert rates[0] < 0.02
    assert rates[10] == pytest.approx(1)
    assert rates[-1] == pytest.approx(loop.FINAL_RATE)
    assert all(a >= b for a, b in pairwise(rates[10:]))


SCRIPT = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import torch
    torch.set_num_threads(1)
    from test_loop import Line
    from wsisum_cli.training import loop
    task = Line(size=4)
    task.module[1].p = 0.0
    trained = loop.train(task, Path(sys.argv[1]), loop.Settings(epochs=2, learning_rate=0.02, device="cpu"), dict())
    rank = 0 if trained.first_process else 1
    torch.save(task.module.state_dict(), Path(sys.argv[1]) / f"weights-{{rank}}.pt")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed training")
def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).format(tests=str(Path(__file__).parent)))
    here = ["--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    command = [sys.executable, "-m", "torch.distributed.run", *here, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"weights-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_equal(first, second)

    alone = Line(size=8)
    alone.module[1].p = 0.0  # processes drop out differently
    loop.train(alone, tmp_path / "alone", loop.Settings(epochs=2, learning_rate=0.02, device="cpu"), {})
    for name, value in weights(alone).items():
        assert torch.allclose(value.float(), first[name].float(), atol=1e-5), name
    rows = [json.loads((folder / "metrics.json").read_text())["epochs"] for folder in (tmp_path, tmp_path / "alone")]
    assert rows[0][-1]["loss"] == pytest.approx(rows[1][-1]["loss"], rel=1e-4)
