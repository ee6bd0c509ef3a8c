"""EDM's pickles: the tensors and settings of the published layout, and refusal of everything that would have
to be run."""

import collections
import io
import pickle
import resource
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._utils import _rebuild_tensor_v2
from weights.edm_files import Buffered
from weights.traps import GLOBALS, Trap

from dgflow.files.inert_pickle import load_records
from dgflow.networks.edm.file import read_edm_pickle
from dgflow.networks.edm.file_writer import write_edm_pickle
from dgflow.networks.edm.preconditioners import EDMPrecond
from dgflow.networks.edm.song import SongUNetModule
from dgflow.weights.tensors import load_into

KWARGS: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 3,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
}


def _network(seed: int = 0, **more: Any) -> EDMPrecond:
    torch.manual_seed(seed)
    return EDMPrecond(SongUNetModule(**{**KWARGS, **more}))


@pytest.fixture(scope="module")
def file() -> bytes:
    return write_edm_pickle(_network(), init_kwargs=KWARGS)


def test_a_pickled_network_gives_its_state_dict_bit_for_bit(file: bytes) -> None:
    tensors, expected = read_edm_pickle(file).tensors, _network().state_dict()
    assert list(tensors) == list(expected)
    assert all(
        torch.equal(tensors[name], expected[name]) and tensors[name].dtype == expected[name].dtype
        for name in expected
    )


@pytest.mark.parametrize(
    "more", [{"embedding_type": "fourier", "resample_filter": [1, 3, 3, 1], "label_dim": 3, "augment_dim": 9}]
)
def test_its_tensors_load_into_another_network_of_the_same_settings(
    more: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "network.pkl"
    path.write_bytes(write_edm_pickle(_network(**more), init_kwargs={**KWARGS, **more}))
    found = read_edm_pickle(path)
    other = _network(seed=1, **more)
    load_into(other, found.tensors, source=str(path))
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.5, 2.0])
    torch.testing.assert_close(other.eval()(x, sigma), _network(**more).eval()(x, sigma), rtol=0, atol=0)


def test_its_settings_are_enough_to_build_the_network_anew(file: bytes) -> None:
    settings = read_edm_pickle(file).settings
    assert settings["class_name"] == "EDMPrecond" and settings["init_kwargs"] == {"sigma_data": 0.5}
    assert settings["model"]["class_name"] == "SongUNet" and settings["model"]["init_kwargs"] == KWARGS
    assert settings["attributes"]["img_resolution"] == 8 and settings["attributes"]["sigma_max"] == float(
        "inf"
    )
    assert (
        SongUNetModule(**settings["model"]["init_kwargs"]).state_dict().keys()
        == _network().model.state_dict().keys()
    )


def test_buffers_that_are_not_stored_are_left_out_and_views_of_one_storage_come_out_right() -> None:
    expected = Buffered().state_dict()
    tensors = read_edm_pickle(write_edm_pickle(Buffered(), init_kwargs={})).tensors
    assert tensors.keys() == {"small", "kept", "same_storage"}
    assert all(
        torch.equal(tensors[name], expected[name]) and tensors[name].dtype == expected[name].dtype
        for name in tensors
    )


def test_nothing_is_imported_and_the_source_inside_is_not_executed(file: bytes, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    hostile = write_edm_pickle(_network(), init_kwargs=KWARGS, source=f"open({str(mark)!r}, 'w').close()")
    before = set(sys.modules)
    read_edm_pickle(hostile)
    assert not mark.exists()
    assert not {"torch_utils", "torch_utils.persistence", "dnnlib"} & (set(sys.modules) - before)


@pytest.mark.parametrize("way", ["os.system", "eval", "getattr"])
@pytest.mark.parametrize("place", ["top", "attribute", "module"])
def test_a_global_beyond_those_of_the_format_is_refused_by_name_and_not_called(
    way: str, place: str, tmp_path: Path
) -> None:
    mark = tmp_path / "executed"
    trap = Trap(mark, way)
    if place == "top":
        data = pickle.dumps({"ema": trap})
    else:

        def plant(state: dict[str, object]) -> None:
            if place == "attribute":
                state["innocent"] = trap
            else:
                state["_modules"] = {"model": trap}

        data = write_edm_pickle(_network(), init_kwargs=KWARGS, change=plant)
    with pytest.raises(ValueError, match=rf"a test: refused.*`{GLOBALS[way]}`.*no code was run"):
        read_edm_pickle(data, source="a test")
    assert not mark.exists()


class _Storage:
    """A tensor's storage whose bytes are given."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[object, ...]:
        return torch.storage._load_from_bytes, (self.data,)


class _Tensor:
    def __init__(self, storage: object, *layout: object) -> None:
        self.args = (storage, *layout, False, collections.OrderedDict())

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_tensor_v2, self.args


def _with_tensor(tensor: object) -> bytes:
    return write_edm_pickle(
        nn.Linear(2, 2), init_kwargs={}, change=lambda state: state.update(_parameters={"weight": tensor})
    )


@pytest.mark.parametrize("form", ["torch.save", "legacy torch.save", "pickle"])
def test_code_within_the_bytes_of_a_storage_is_refused(form: str, tmp_path: Path) -> None:
    mark, buffer = tmp_path / "executed", io.BytesIO()
    if form == "pickle":
        pickle.dump(Trap(mark), buffer)
    else:
        torch.save(Trap(mark), buffer, _use_new_zipfile_serialization=form == "torch.save")
    with pytest.raises(ValueError, match="the storage of 'weight'"):
        read_edm_pickle(_with_tensor(_Tensor(_Storage(buffer.getvalue()), 0, (1,), (1,))))
    assert not mark.exists()


@pytest.mark.parametrize(
    "layout", [(0, (5,), (1,)), (3, (2,), (1,)), (0, (2, 2), (9, 1)), (-1, (2,), (1,)), (0, ("a",), (1,))]
)
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(layout: tuple[object, ...]) -> None:
    buffer = io.BytesIO()
    torch.save(
        torch.TypedStorage(4, dtype=torch.float32, _internal=True),
        buffer,
        _use_new_zipfile_serialization=False,
    )
    with pytest.raises(ValueError, match="'weight'"):
        read_edm_pickle(_with_tensor(_Tensor(_Storage(buffer.getvalue()), *layout)))


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _named(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + b"\x93"


@pytest.mark.parametrize(
    ("module", "name", "shown"),
    [
        ("torch.storage", "_load_from_bytes.__globals__", "torch.storage._load_from_bytes.__globals__"),
        ("collections", "OrderedDict.__init__.__globals__", "collections.OrderedDict.__init__.__globals__"),
        ("builtins", "set.__class__", "builtins.set.__class__"),
        (
            "torch.nn.modules.container",
            "ModuleDict.__init__",
            "torch.nn.modules.container.ModuleDict.__init__",
        ),
        ("dgflow.networks.edm.file", "_Record", "dgflow.networks.edm.file._Record"),
        ("torch", "load", "torch.load"),
    ],
)
def test_a_name_with_dots_does_not_lead_from_an_allowed_global_to_another(
    module: str, name: str, shown: str
) -> None:
    with pytest.raises(ValueError, match=rf"refused.*`{shown}`"):
        read_edm_pickle(b"\x80\x04" + _named(module, name) + b".")


def test_a_pickle_cannot_alter_the_classes_that_it_names(file: bytes) -> None:
    before = dict(vars(collections.OrderedDict)), dict(vars(nn.ModuleDict))
    build = _named("torch.nn.modules.container", "ModuleDict") + b"N}" + _text("planted") + b"\x88s\x86b."
    with pytest.raises(ValueError, match="expected a whole pickle"):
        read_edm_pickle(b"\x80\x04" + build)
    assert (dict(vars(collections.OrderedDict)), dict(vars(nn.ModuleDict))) == before
    read_edm_pickle(file)  # and the reader still reads


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_pickle_that_was_cut_short_is_refused(file: bytes, part: float) -> None:
    with pytest.raises(ValueError, match="b.pkl: expected a whole pickle.*fetch it again"):
        read_edm_pickle(file[: int(part * len(file))], source="b.pkl")


def test_another_pickle_is_refused_with_what_was_found() -> None:
    with pytest.raises(ValueError, match=r"expected EDM's pickle of a dict with 'ema', found 'weights'"):
        read_edm_pickle(pickle.dumps({"weights": [1.0]}))
    with pytest.raises(ValueError, match="expected a module, found list"):
        read_edm_pickle(pickle.dumps({"ema": [1.0]}))


def test_modules_inside_each_other_without_end_are_refused() -> None:
    def tie(state: dict[str, object]) -> None:
        state["_modules"] = {"model": loop}
        loop.__dict__["_modules"] = {"again": loop}

    loop = nn.ModuleDict()
    with pytest.raises(ValueError, match="modules at most 100 deep"):
        read_edm_pickle(write_edm_pickle(nn.Linear(2, 2), init_kwargs={}, change=tie))


@pytest.mark.parametrize(
    "claim",
    [
        b"Nr" + struct.pack("<I", 2**31),  # a place in the memo
        b"\x8e" + struct.pack("<Q", 2**36) + b"abc",  # bytes
        b"\x96" + struct.pack("<Q", 2**36) + b"abc",  # a bytearray
        b"\x95" + struct.pack("<Q", 2**36) + b"abc",  # a frame
        b"\x8b" + struct.pack("<i", 2**31 - 1) + b"abc",  # an integer
    ],
)
def test_a_claim_beyond_the_file_is_refused_before_any_memory_is_taken(claim: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(b"\x80\x05" + claim + b".")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for file in (b"\x80\x05" + claim + b".", tmp_path / "w.pkl"):
        with pytest.raises(
            ValueError, match="expected a whole pickle.*(place 2147483648 in the memo|(was|were) announced)"
        ):
            read_edm_pickle(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_one_name_is_one_class_however_often_it_is_named() -> None:
    allowed = ["collections.OrderedDict"]
    both = _named("collections", "OrderedDict")
    found = load_records(io.BytesIO(b"\x80\x04" + both + both + b"\x86."), 100, allowed)
    assert found[0] is found[1]


def _many() -> list[object]:
    value: list[object] = ["x"]
    for _ in range(40):
        value = [value, value]
    return value


def test_settings_that_cannot_be_plain_are_left_out_and_the_tensors_kept() -> None:
    itself: list[object] = []
    itself.append(itself)
    kwargs = {"": {"kept": 1, "numbers": {1: 2}, "many": _many(), "itself": itself}}
    found = read_edm_pickle(
        write_edm_pickle(
            nn.Linear(2, 2), init_kwargs=kwargs, change=lambda state: state.update(_init_kwargs=kwargs[""])
        )
    )
    assert found.settings["init_kwargs"] == {"kept": 1} and found.tensors.keys() == {"weight", "bias"}


def test_modules_that_are_in_each_other_many_times_are_refused() -> None:
    module = nn.ModuleDict()
    for _ in range(40):
        outer = nn.ModuleDict()
        outer.__dict__["_modules"] = {"a": module, "b": module}
        module = outer
    with pytest.raises(ValueError, match="at most 1000000 values"):
        read_edm_pickle(
            write_edm_pickle(
                nn.Linear(2, 2), init_kwargs={}, change=lambda state: state.update(_modules={"model": module})
            )
        )


def test_a_value_that_is_shown_in_an_error_is_shown_in_short() -> None:
    def plant(state: dict[str, object]) -> None:
        state["_parameters"] = {"a\n\x1b[31mline" + 300 * "x": 3}

    with pytest.raises(ValueError, match=r"expected a tensor at 'a\\n\\x1b\[31mline") as raised:
        read_edm_pickle(write_edm_pickle(nn.Linear(2, 2), init_kwargs={}, change=plant))
    assert len(str(raised.value)) < 300
