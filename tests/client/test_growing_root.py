"""A root that is open while a run adds to it: new epochs and steps are seen, and which epoch a run used."""

import shutil
from pathlib import Path

import pytest

import dgflow
from dgflow.client.open_root import OpenRoot


@pytest.fixture
def growing(folder: Path, tmp_path: Path) -> tuple[OpenRoot, Path]:
    """An open root whose discriminator has trained one epoch, and which has no guided samples, beside the
    whole one."""
    whole, root = folder / "runs/digits", tmp_path / "root"
    shutil.copytree(whole, root)
    run = dgflow.open(whole)
    training = run.discriminator().step
    for step in run.steps():
        if training.fingerprint in {each.fingerprint for each in step.spec.reads.values()}:
            shutil.rmtree(root / step.name)
    for receipt in (root / training.name / "epochs").glob("00002-*"):
        receipt.unlink()
    return dgflow.open(root), whole


def test_what_a_run_adds_is_seen(growing):
    run, whole = growing
    steps, best = len(run.steps()), dgflow.open(whole).discriminator(epoch="best").epoch
    assert run.discriminator().epoch == run.discriminator(epoch="last").epoch == 1
    shutil.copytree(whole, run.url, dirs_exist_ok=True)
    assert len(run.steps()) > steps
    assert run.discriminator(epoch="last").epoch == 2
    assert run.discriminator(epoch="best").epoch == best
    assert run.discriminator().epoch == dgflow.open(whole).discriminator().epoch  # that of the new steps
