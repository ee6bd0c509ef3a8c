"""Lines about steps that a run reuses."""

import pytest
import tiny

from dgflow.runtime.progress import Progress
from dgflow.specs.graph import graph
from dgflow.store.memory import MemoryStore


@pytest.fixture
def nodes(tmp_path):
    """Listing, images, score network, fakes, discriminator."""
    return graph(tiny.discriminator(tiny.write_images(tmp_path / "images.npz")))


def test_a_few_reused_steps_have_a_line_each(nodes, capsys):
    progress = Progress()
    with progress.run(nodes, MemoryStore("reused")):
        for node in nodes[:2]:
            progress.reused(node.step, 3)
        with progress.step(nodes[2].step, total=1, done=0):
            lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [f"{nodes[0].step.title}: reused, 1 result", "import-images: reused, 3 shards"]


def test_many_reused_steps_share_one(nodes, capsys):
    progress = Progress()
    with progress.run(nodes, MemoryStore("reused")):
        for node in nodes:
            progress.reused(node.step, 3)
    assert capsys.readouterr().err.splitlines() == [
        f"reused: {len(nodes)} steps, from {nodes[0].step.title} to {nodes[-1].step.title}"
    ]
