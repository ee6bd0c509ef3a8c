"""The readers of safetensors, torch.save and npz files, each on a file made to the published description of
its format."""

import argparse
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from weights.reading import read_weights
from weights.traps import Trap

from dgflow.weights.tensors import load_into

WEIGHTS = {
    "b.weight": torch.arange(6.0).reshape(2, 3),
    "a": torch.tensor(3),
    "c": torch.tensor([1.5, -2.0], dtype=torch.float16),
}


class Net(nn.Module):
    """Two trainable parameters, a frozen one, and a buffer."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        made = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(3, 2, generator=made))
        self.temb_fun = nn.ParameterDict(
            {"w": nn.Parameter(torch.randn(1, 4, generator=made), requires_grad=False)}
        )
        self.last = nn.Parameter(torch.randn(2, generator=made))
        self.register_buffer("sigmas", torch.randn(5, generator=made, dtype=torch.float64))

    def names(self, trainable: bool) -> list[str]:
        return [
            name for name, parameter in self.named_parameters() if parameter.requires_grad or not trainable
        ]


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype and torch.equal(found[name], expected[name])
        for name in expected
    )


def averaged(net: Net) -> dict[str, Tensor]:
    """Averages of the trainable parameters, unlike their values."""
    return {name: 10 * net.state_dict()[name] + 1 for name in net.names(trainable=True)}


def soft_truncation(net: Net, averages: list[Tensor]) -> dict[str, Any]:
    model = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    optimizer = torch.optim.Adam(
        [parameter for parameter in net.parameters() if parameter.requires_grad]
    ).state_dict()
    return {
        "optimizer": optimizer,
        "model": model,
        "ema": {"decay": 0.9999, "num_updates": 7, "shadow_params": averages},
        "step": 7,
    }


def lsgm(net: Net, averages: dict[str, Tensor] | None) -> dict[str, Any]:
    names = net.names(trainable=False)
    args = argparse.Namespace(
        dataset="cifar10",
        num_channels_dae=16,
        channel_mult=[1, 2],
        fir=True,
        embedding_scale=1000.0,
        root=None,
    )
    found = {
        "epoch": 3,
        "global_step": 12,
        "args": args,
        "best_score_fid": np.float64(2.25),
        "best_score_nll": torch.tensor(3.5),
    }
    found |= {"dae_state_dict": net.state_dict(), "vae_state_dict": {"stem.weight": torch.ones(2)}}
    if averages is not None:
        state = {i: {"step": 12, "ema": averages[name]} for i, name in enumerate(names) if name in averages}
        found["dae_optimizer"] = {
            "state": state,
            "param_groups": [{"lr": 1e-4, "params": list(range(len(names)))}],
        }
    return found


@pytest.mark.parametrize("as_path", [True, False])
def test_safetensors_give_their_tensors_and_their_texts(as_path: bool, tmp_path: Path) -> None:
    data = safetensors.torch.save(WEIGHTS, metadata={"format": "pt", "epoch": "7"})
    (tmp_path / "w.safetensors").write_bytes(data)
    found = read_weights(tmp_path / "w.safetensors" if as_path else data, "safetensors")
    assert same(found.tensors, WEIGHTS) and found.settings == {"format": "pt", "epoch": "7"}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("as_path", [True, False])
def test_a_flat_state_dict_is_read_from_bytes_and_paths_in_torch_s_old_and_new_form(
    zipped: bool, as_path: bool, tmp_path: Path
) -> None:
    net = nn.BatchNorm1d(3)
    data = saved(net.state_dict(), _use_new_zipfile_serialization=zipped)
    (tmp_path / "w.pt").write_bytes(data)
    found = read_weights(tmp_path / "w.pt" if as_path else data, "state_dict")
    assert same(found.tensors, net.state_dict()) and found.settings == {}


def test_of_dit_s_training_file_the_averages_are_read_and_a_released_file_is_read_as_it_is() -> None:
    file = {
        "model": {"w": torch.zeros(2)},
        "ema": {"w": torch.ones(2)},
        "opt": {"state": {}},
        "args": argparse.Namespace(image_size=256),
    }
    found = read_weights(saved(file), "dit")
    assert same(found.tensors, {"w": torch.ones(2)}) and found.settings == {"args": {"image_size": 256}}
    assert same(read_weights(saved(WEIGHTS), "dit").tensors, WEIGHTS)


def test_soft_truncation_s_averages_are_put_over_the_names_and_the_rest_stays() -> None:
    net = Net()
    averages = averaged(net)
    found = read_weights(
        saved(soft_truncation(net, list(averages.values()))),
        "soft_truncation",
        ema_names=net.names(trainable=True),
    )
    assert same(found.tensors, {**net.state_dict(), **averages})
    assert found.settings == {"step": 7, "decay": 0.9999, "num_updates": 7}
    load_into(Net(seed=1), found.tensors, source="a test")


def test_lsgm_s_prior_is_averaged_from_the_optimizer_and_its_untrained_frequencies_stay() -> None:
    net = Net()
    averages = averaged(net)
    file = saved(lsgm(net, averages))
    found = read_weights(file, "lsgm", part="prior", ema_names=net.names(trainable=False))
    assert same(found.tensors, {**net.state_dict(), **averages})
    assert found.settings["args"] == {
        "dataset": "cifar10",
        "num_channels_dae": 16,
        "channel_mult": [1, 2],
        "fir": True,
        "embedding_scale": 1000.0,
        "root": None,
    }
    assert {key: found.settings[key] for key in ("epoch", "best_score_fid", "best_score_nll")} == {
        "epoch": 3,
        "best_score_fid": 2.25,
        "best_score_nll": 3.5,
    }
    assert same(read_weights(file, "lsgm", part="vae").tensors, {"stem.weight": torch.ones(2)})


def test_lsgm_s_files_without_an_optimizer_hold_the_averages_already() -> None:
    net = Net()
    assert same(read_weights(saved(lsgm(net, None)), "lsgm", part="prior").tensors, net.state_dict())


def test_an_npz_gives_its_arrays(tmp_path: Path) -> None:
    mu, sigma = np.arange(3.0), np.eye(3)
    np.savez(tmp_path / "ref.npz", mu=mu, sigma=sigma)
    found = read_weights(tmp_path / "ref.npz", "npz").tensors
    assert found.keys() == {"mu", "sigma"} and found["mu"].dtype == torch.float64
    assert np.array_equal(found["mu"].numpy(), mu) and np.array_equal(found["sigma"].numpy(), sigma)


@pytest.mark.parametrize("format", ["state_dict", "dit", "soft_truncation", "lsgm"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_with_code_is_refused_by_name_and_nothing_runs(
    format: Any, zipped: bool, tmp_path: Path
) -> None:
    mark = tmp_path / "executed"
    file = saved({"ema": {"w": torch.ones(1)}, "args": Trap(mark)}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="dg.pt: refused.*`posix.system`.*no code was run"):
        options = {"soft_truncation": {"ema_names": []}, "lsgm": {"part": "prior"}}.get(format, {})
        read_weights(file, format, source="dg.pt", **options)
    assert not mark.exists()


def test_an_npz_of_objects_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    np.savez(tmp_path / "ref.npz", mu=np.array([Trap(mark)], dtype=object))
    with pytest.raises(ValueError, match=r"ref.npz: expected a whole .npz of numbers"):
        read_weights(tmp_path / "ref.npz", "npz")
    assert not mark.exists()


FILES = {
    "safetensors": lambda: safetensors.torch.save(WEIGHTS),
    "state_dict": lambda: saved(WEIGHTS),
    "npz": lambda: _npz(mu=np.zeros(50)),
}


def _npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize("format", FILES)
@pytest.mark.parametrize("part", [0.0, 0.2, 0.6, 0.98])
@pytest.mark.parametrize("as_path", [True, False])
def test_a_file_that_was_cut_short_is_refused_by_name(
    format: Any, part: float, as_path: bool, tmp_path: Path
) -> None:
    data = FILES[format]()
    data = data[: int(part * len(data))]
    (tmp_path / "cut").write_bytes(data)
    with pytest.raises(ValueError, match="cut.*found another.* or a damaged one.*fetch it again"):
        read_weights(tmp_path / "cut" if as_path else data, format, source=None if as_path else "cut")


def test_nothing_at_the_path_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a weight file at .*missing.pt, found nothing"):
        read_weights(tmp_path / "missing.pt", "state_dict")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": torch.ones(1), "epoch": 3}, "found a int at 'epoch'"),
        (argparse.Namespace(x=1), "found a Namespace"),
        ([torch.ones(1)], "found a list"),
        ({"a": torch.eye(2).to_sparse()}, "refused, .* need `torch._utils._rebuild_sparse_tensor`"),
        ({"model": {}, "ema": {}, "opt": {}, "args": None}, "looks like format 'dit'"),
        (soft_truncation(Net(), []), "looks like format 'soft_truncation'"),
        (lsgm(Net(), {}), "looks like format 'lsgm'"),
    ],
)
def test_a_torch_file_of_another_kind_is_refused_with_what_it_looks_like(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"dg.pt: .*{message}"):
        read_weights(saved(value), "state_dict", source="dg.pt")


def test_averages_that_do_not_fit_the_names_are_refused() -> None:
    net = Net()
    names, averages = net.names(trainable=True), list(averaged(net).values())

    def read(averages: list[Tensor], names: list[str]) -> None:
        read_weights(
            saved(soft_truncation(net, averages)), "soft_truncation", source="st.pth", ema_names=names
        )

    with pytest.raises(
        ValueError,
        match="st.pth: expected 3 averages in 'shadow_params', one per trainable parameter, found 2",
    ):
        read(averages, net.names(trainable=False))
    with pytest.raises(
        ValueError, match=r"average of 'first' as torch.float32 \[3, 2\], found torch.float32 \[2\]"
    ):
        read(averages[::-1], names)
    with pytest.raises(ValueError, match="average of 'first' as torch.float32 .*found torch.float64"):
        read([average.double() for average in averages], names)
    with pytest.raises(
        ValueError, match="expected the averaged 'other' among the network's tensors, found 'first'"
    ):
        read(averages, ["first", "other"])


def test_averages_missing_from_lsgm_s_optimizer_are_named() -> None:
    net = Net()
    file, names = lsgm(net, averaged(net)), net.names(trainable=False)
    del file["dae_optimizer"]["state"][names.index("last")]
    with pytest.raises(
        ValueError,
        match=f"expected an average of 'last', the parameter at position {names.index('last')}, found none",
    ):
        read_weights(saved(file), "lsgm", part="prior", ema_names=names)
    with pytest.raises(ValueError, match="expected an optimizer of 2 parameters, found one of 3"):
        read_weights(saved(file), "lsgm", part="prior", ema_names=names[:2])


def test_lsgm_s_averages_are_refused_without_names() -> None:
    with pytest.raises(
        ValueError, match="by position: give the names in the order of this network's parameters"
    ):
        read_weights(saved(lsgm(Net(), {})), "lsgm", part="prior")


def test_what_a_file_says_beside_its_weights_and_cannot_be_plain_is_left_out() -> None:
    itself: list[Any] = []
    itself.append(itself)
    many: list[Any] = ["x"]
    for _ in range(40):
        many = [many, many]
    args = argparse.Namespace(kept=1, itself=itself, many=many, device=torch.device("cpu"), numbers={1: 2})
    found = read_weights(saved({"vae_state_dict": WEIGHTS, "args": args}), "lsgm", part="vae")
    assert same(found.tensors, WEIGHTS) and found.settings == {"args": {"kept": 1}}


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.update(__metadata__=None),
        lambda header: header["a"].update(shape=[0, 2**64 - 1], data_offsets=[0, 0]),
    ],
)
@pytest.mark.parametrize("as_path", [True, False])
def test_a_strange_header_of_safetensors_is_read_or_refused(
    change: Any, as_path: bool, tmp_path: Path
) -> None:
    described = {"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    change(described)
    header = json.dumps(described).encode()
    data = len(header).to_bytes(8, "little") + header
    (tmp_path / "w.safetensors").write_bytes(data)
    try:
        assert read_weights(tmp_path / "w.safetensors" if as_path else data, "safetensors").settings == {}
    except ValueError as error:
        assert "expected a whole safetensors file" in str(error)


def _npz_of(header: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        archive.writestr(
            "mu.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(64)
        )
    return buffer.getvalue()


def _claims(shape: str) -> str:
    return f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n"


@pytest.mark.parametrize(
    "data",
    [
        _npz_of(_claims(f"({10**12},)")),
        _npz_of(_claims(f"({2**70},)")),
        _npz_of(_claims("(2,)")).replace(
            b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
        ),  # encrypted
        _npz_of(_claims("(2,)")).replace(b"\x00" * 2 + b"PK", b"PK"),
    ],
    ids=["more than memory", "more than an integer", "encrypted", "damaged"],
)
def test_a_strange_npz_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"ref.npz: expected a whole .npz of numbers"):
        read_weights(data, "npz", source="ref.npz")
