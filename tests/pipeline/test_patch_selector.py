"""How many patches represent a share of the tissue, where kept patches are encoded anew."""

from __future__ import annotations

import numpy as np
import pytest
from draw import draw_tissue, write_svs

from wsisum_cli.features.similarity import nearest
from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.pipeline.job import Clock, Job, Options, Tools
from wsisum_cli.pipeline.patch_selector import PatchSelector
from wsisum_cli.pipeline.scene import open_scene
from wsisum_cli.quality.represented import share_of
from wsisum_cli.slides.source import find_source


def share_by_all(selector: PatchSelector, keep: int) -> float:
    """The share as a summary of `keep` patches has it."""
    chosen = selector.select(keep)
    _, similarity = nearest(chosen.tissue.features, chosen.tissue.features[chosen.selection.rows])
    similarity[chosen.selection.rows] = 1
    return share_of(similarity, selector.likeness.cosine, selector.unread)


@pytest.mark.parametrize("pixels", ["jpeg", "source"])
def test_share_of_any_number_is_that_of_a_summary(tmp_path, pixels):
    path = tmp_path / "a.svs"
    write_svs(path, draw_tissue(3000, 2700, seed=6), tile=256)
    job = Job(find_source(path), tmp_path / "a.ozx", path.name, mpp=0.25)
    tools = Tools(load_encoder("texture", "cpu"), 1)
    with open_scene(job, Options(pixels=pixels), tools, Clock(tools.stage)) as scene:
        selector = scene.patch_selector
        for keep in (12, 5, 1, 16, 15, 20):
            assert selector._share(keep) == pytest.approx(share_by_all(selector, keep), abs=1e-12)
        shares = [selector._share(keep) for keep in range(1, 21)]
        assert shares == sorted(shares)
        assert selector.fewest(shares[9]) == 1 + int(np.argmax(np.array(shares) >= shares[9]))
