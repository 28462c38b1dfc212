"""Summaries as a dataset of torch, alone and behind the workers of a DataLoader."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the dataset needs torch")

from draw import draw_tissue, write_svs  # noqa: E402
from records import ENCODER  # noqa: E402
from summaries import DIMS, KEPT, SIDE, STUB, write_tiny  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from wsisum_cli import SummaryDataset, open_summary  # noqa: E402
from wsisum_cli.errors import SummaryError, UsageError  # noqa: E402
from wsisum_cli.models.card import Card  # noqa: E402
from wsisum_cli.pipeline.reembed import reembed_summary  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three summaries, and labels of two."""
    found = tmp_path_factory.mktemp("summaries")
    for name, mode in (("a/B12.ozx", "jpeg"), ("C3.ozx", "source"), ("b/D4.ozx", "jpeg")):
        (found / name).parent.mkdir(exist_ok=True)
        write_tiny(found / name, mode)
    (found / "labels.csv").write_text("slide,label\nB12.svs,tumour\nD4,normal\n")
    return found


def test_an_item_is_a_slide(folder: Path):
    dataset = SummaryDataset(folder, pixels=True)
    assert (len(dataset), dataset.names, dataset.classes) == (3, ("B12", "C3", "D4"), ())
    item = dataset[1]
    with open_summary(folder / "C3.ozx") as summary:
        assert set(item) == {"name", "features", "coords", "weights", "pixels"}
        assert torch.equal(item["features"], torch.from_numpy(summary.features.astype(np.float32)))
        assert torch.equal(item["coords"], torch.from_numpy(summary.coords.astype(np.int64)))
        assert item["weights"].sum() == pytest.approx(1)
        assert item["pixels"].shape == (KEPT, 3, SIDE, SIDE)
        np.testing.assert_array_equal(item["pixels"][2].numpy(), np.moveaxis(summary.patches[2], 2, 0))
    assert dataset[-1]["name"] == "D4"
    with pytest.raises(IndexError):
        dataset[3]
    assert "pixels" not in SummaryDataset([folder / "C3.ozx"])[0]


def test_labels_choose_the_slides(folder: Path):
    dataset = SummaryDataset(folder, folder / "labels.csv")
    assert (dataset.names, dataset.classes) == (("B12", "D4"), ("normal", "tumour"))
    assert [dataset[index]["label"] for index in range(2)] == [1, 0]
    assert repr(dataset) == "<SummaryDataset of 2 slides, classes normal, tumour>"
    with pytest.raises(UsageError, match="expected a column 'organ'"):
        SummaryDataset(folder, folder / "labels.csv", label="organ")


def test_draws_are_the_same_in_every_process_and_follow_the_weights(folder: Path):
    dataset = SummaryDataset(folder, draws=50, seed=3)
    drawn = [dataset[index]["drawn"] for index in range(3)]
    assert all(int(counts.sum()) == 50 for counts in drawn)
    again = SummaryDataset(folder, draws=50, seed=3)
    assert all(torch.equal(counts, again[index]["drawn"]) for index, counts in enumerate(drawn))
    again.set_epoch(1)
    assert not torch.equal(drawn[0], again[0]["drawn"])
    many = SummaryDataset(folder, draws=1_000_000)[0]
    assert (many["drawn"] / 1_000_000 - many["weights"]).abs().max() < 0.01
    with pytest.raises(UsageError, match="draws: expected at least 1"):
        SummaryDataset(folder, draws=0)


@pytest.mark.parametrize("start", ["fork", "spawn"] if os.name == "posix" else ["spawn"])
def test_workers_give_the_same_items(folder: Path, start: str):
    dataset = SummaryDataset(folder, folder / "labels.csv", pixels=True, draws=20)
    pickle.loads(pickle.dumps(dataset))
    loader: Any = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=start)
    for index, item in enumerate(loader):
        alone = dataset[index]
        assert (item["name"], item["label"]) == (alone["name"], alone["label"])
        for name in ("features", "coords", "weights", "pixels", "drawn"):
            assert torch.equal(item[name], alone[name])


def test_features_that_were_added_can_be_chosen(folder: Path, tmp_path: Path):
    class Other:
        card = Card.model_validate({**ENCODER, "name": "other", "dims": 3, "sha256": "12" * 32})
        provider, batch_size = "CPUExecutionProvider", 8

        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            return pixels.mean(axis=(1, 2), dtype=np.float32)

    other: Any = Other()
    reembed_summary(folder / "C3.ozx", tmp_path / "C3.ozx", other)
    for encoder, dims in ((None, DIMS), ("stub", DIMS), (STUB.card.sha256, DIMS), ("other", 3), ("12" * 32, 3)):
        assert SummaryDataset(tmp_path, encoder=encoder)[0]["features"].shape == (KEPT, dims)
    with pytest.raises(SummaryError, match="expected features by nobody, found those by stub, other"):
        SummaryDataset(tmp_path, encoder="nobody")[0]


def test_folders_without_summaries_and_names_that_occur_twice(folder: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="found none"):
        SummaryDataset(tmp_path)
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "B12.ozx").write_bytes((folder / "a/B12.ozx").read_bytes())
    assert SummaryDataset(tmp_path).names == ("x/B12", "y/B12")
    with pytest.raises(UsageError, match="B12: expected one summary of that name"):
        SummaryDataset([tmp_path / "x/B12.ozx", tmp_path / "y/B12.ozx"])


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import wsisum_cli
assert wsisum_cli.open_summary and wsisum_cli.compress
try:
    wsisum_cli.SummaryDataset
except ImportError as error:
    print(error)
"""


def test_without_torch_the_rest_works_and_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert done.stdout == "SummaryDataset needs PyTorch: pip install 'wsisum[train]'\n", done.stderr


def test_the_examples_of_the_page_run(tmp_path: Path):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    write_svs(tmp_path / "B12.svs", draw_tissue(2048, 1536, 3))
    (tmp_path / "labels.csv").write_text("slide,label\nB12.svs,tumour\nC3.svs,normal\n")
    copy = "import shutil; shutil.copy('summaries/B12.ozx', 'summaries/C3.ozx')\n"
    train = next(place for place, block in enumerate(blocks) if "SummaryDataset" in block)
    program = "\n".join([*blocks[:train], copy, *blocks[train:]])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert "('normal', 'tumour')" in done.stdout
    assert "already exists; pass force=True" in done.stdout
