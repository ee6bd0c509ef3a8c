"""A GPU that is missing, and one that no longer computes."""

import pickle

import pytest
import torch

from dgflow.diffusion.device_errors import is_broken
from dgflow.runtime import devices
from dgflow.runtime.devices import DeviceBroken, NoDevice, broken, check_gpu
from dgflow.runtime.pool import process_fleet
from dgflow.runtime.pool.pool import Pool, WorkersFailed
from dgflow.runtime.pool.process_fleet import ProcessFleet
from dgflow.runtime.training.fit import _from_outside


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), True),
        (RuntimeError("CUDA error: out of memory"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA error: in the name of a file"), False),
    ],
)
def test_an_error_after_which_a_gpu_computes_no_more_is_recognised(error, expected):
    assert is_broken(error) is expected
    worse = broken(error)
    assert (worse is not None) is expected
    assert worse is None or (isinstance(worse, DeviceBroken) and str(error) in str(worse))


def test_a_training_that_lost_its_gpu_is_started_again_and_does_not_end_the_run():
    assert _from_outside(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not _from_outside(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_worker_whose_gpu_is_not_there_says_which_driver_and_torch_and_what_to_do(monkeypatch, tmp_path):
    version = tmp_path / "version"
    version.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC "
        "version:\n"
    )
    monkeypatch.setattr(devices, "_DRIVER", version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("DGFLOW_EMULATED_GPUS", raising=False)
    with pytest.raises(NoDevice) as caught:
        check_gpu("node-1")
    message = str(caught.value)
    assert caught.value.host == "node-1" and f"torch {torch.__version__}" in message
    assert "NVIDIA driver: 535.183.01" in message and "--num-gpus 0" in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "none")
    with pytest.raises(NoDevice, match="NVIDIA driver: not loaded"):
        check_gpu("node-1")


def test_a_pool_whose_gpu_is_not_there_ends_with_the_reason_and_computes_nothing(monkeypatch):
    monkeypatch.setattr(process_fleet, "gpus", lambda: ["99"])  # a GPU that no machine has
    monkeypatch.delenv("DGFLOW_EMULATED_GPUS", raising=False)
    done = []
    with (
        pytest.raises(
            WorkersFailed, match="no host has a GPU that can be used; .*expected a GPU for this worker"
        ),
        Pool(1, fleet=ProcessFleet(1.0)) as pool,
    ):
        pool.map(lambda: lambda item: item, range(3), lambda item, _: done.append(item))
    assert not done


def test_receipts_record_the_versions_that_change_bits_of_what_is_loaded(monkeypatch):
    from PIL import __version__ as pillow

    from dgflow.runtime import environment

    found = environment.versions()
    assert found["pillow"] == pillow and found["torch"] == torch.__version__.partition("+")[0]
    assert not found.keys() & {"cuda", "cudnn", "driver"}
    monkeypatch.setattr(environment, "device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(environment, "driver", lambda: "580.65.06")
    environment._of_the_gpu.cache_clear()
    found = environment.versions()
    assert found["driver"] == "580.65.06" and found.get("cuda") == torch.version.cuda
    environment._of_the_gpu.cache_clear()
