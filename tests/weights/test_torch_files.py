"""Files of torch.save that torch itself would read, and should not be: more globals, other sizes, compressed
or damaged parts."""

import argparse
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from dgflow.weights.torch_file import load_torch, read_state_dict


def _saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def _rewritten(data: bytes, compressed: str = "", pickled: bytes | None = None) -> bytes:
    """The same archive with another pickle, and the record whose name ends with `compressed` compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            how = zipfile.ZIP_DEFLATED if compressed and name.endswith(compressed) else zipfile.ZIP_STORED
            new.writestr(
                name, pickled if pickled is not None and name.endswith("data.pkl") else old.read(name), how
            )
    return buffer.getvalue()


# Instructions of pickles, protocol 2.
def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _int(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def _global(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def _call(name: str, *arguments: bytes) -> bytes:
    return _global(name) + b"(" + b"".join(arguments) + b"tR"


def _state_dict(weight: bytes) -> bytes:
    return b"\x80\x02}" + _text("weight") + weight + b"s."


def _tensor(storage: bytes, size: int) -> bytes:
    one = b"(" + _int(1) + b"t"
    return _call(
        "torch._utils._rebuild_tensor_v2",
        storage,
        _int(0),
        b"(" + _int(size) + b"t",
        one,
        b"\x89",
        _call("collections.OrderedDict"),
    )


def _zipped(weight: bytes) -> bytes:
    return _rewritten(_saved({"weight": torch.zeros(4)}), pickled=_state_dict(weight))


def _legacy(weight: bytes, numbers: int) -> bytes:
    """A file in the format before version 1.6, with one storage of `numbers` 32-bit numbers."""
    head = b"".join(
        pickle.dumps(value, protocol=2) for value in (MAGIC_NUMBER, PROTOCOL_VERSION, {"little_endian": True})
    )
    return (
        head
        + _state_dict(weight)
        + pickle.dumps(["0"], protocol=2)
        + struct.pack("<q", numbers)
        + bytes(4 * numbers)
    )


def _both(data: bytes, tmp_path: Path) -> list[bytes | Path]:
    """Read as bytes and as a path, which torch does in different ways."""
    (tmp_path / "w.pt").write_bytes(data)
    return [data, tmp_path / "w.pt"]


CALLS = {
    "builtins.bytearray": _call("builtins.bytearray", _int(10**12)),
    "torch.Tensor": _call("torch.Tensor", _int(1000)),  # memory as it is found
    "torch.storage.UntypedStorage": _call("torch.storage.UntypedStorage", _int(1000)),
    "torch._utils._rebuild_meta_tensor_no_storage": _call(
        "torch._utils._rebuild_meta_tensor_no_storage",
        _global("torch.float32"),
        b"(" + _int(4) + b"t",
        b"(" + _int(1) + b"t",
        b"\x89",
    ),
    "torch._tensor._rebuild_from_type_v2": _call(
        "torch._tensor._rebuild_from_type_v2", _global("torch.Size"), _global("torch.Size"), b")", b"}"
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_torch_allows_beyond_tensors_of_numbers_is_refused_by_name(name: str, tmp_path: Path) -> None:
    for file in (*_both(_zipped(CALLS[name]), tmp_path), *_both(_legacy(CALLS[name], 4), tmp_path)):
        with pytest.raises(ValueError, match=f"refused, .* `{name}`, .*no code was run"):
            read_state_dict(file)


def test_what_the_process_allows_elsewhere_is_not_allowed_here() -> None:
    elsewhere = torch.serialization.safe_globals([(os.getcwd, "elsewhere.function")])  # pyright: ignore[reportArgumentType]
    with elsewhere, pytest.raises(ValueError, match="refused, .* `elsewhere.function`"):
        read_state_dict(_zipped(_call("elsewhere.function")))


@pytest.mark.parametrize("zipped", [True, False])
def test_what_plain_checkpoints_hold_is_read(zipped: bool) -> None:
    value = {
        "tensors": [
            torch.ones(2, dtype=dtype) for dtype in (torch.bfloat16, torch.int64, torch.uint8, torch.bool)
        ],
        "parameter": nn.Parameter(torch.ones(2)),
        "optimizer": torch.optim.Adam([nn.Parameter(torch.ones(1))]).state_dict(),
        "others": [
            torch.float16,
            torch.ones(2).shape,
            {1, 2},
            b"bytes",
            torch.device("cpu"),
            argparse.Namespace(a=1),
        ],
    }
    found = load_torch(_saved(value, _use_new_zipfile_serialization=zipped), "a test")
    assert (
        found.keys() == value.keys()
        and found["others"][:5] == value["others"][:5]
        and found["others"][5].a == 1
    )
    assert all(map(torch.equal, found["tensors"], value["tensors"]))


def test_a_compressed_archive_is_refused_and_not_misread(tmp_path: Path) -> None:
    data = _saved({"a": torch.zeros(1000), "b": torch.arange(1000.0)})
    for file in _both(_rewritten(data, compressed="data/0"), tmp_path):
        with pytest.raises(ValueError, match="it is compressed, which torch.save never does"):
            read_state_dict(file)


def test_a_damaged_number_is_found_by_its_checksum(tmp_path: Path) -> None:
    data = bytearray(_saved({"b": torch.arange(1000.0)}))
    data[data.find(struct.pack("<f", 500.0)) + 3] ^= 1
    for file in _both(bytes(data), tmp_path):
        with pytest.raises(ValueError, match="the checksum of '.*data/0' differs"):
            read_state_dict(file)


def test_parts_that_share_their_bytes_do_not_make_a_small_file_large(tmp_path: Path) -> None:
    buffer = io.BytesIO(_saved({"a": torch.zeros(10_000)}))
    with zipfile.ZipFile(buffer, "a") as archive:
        (record,) = [member for member in archive.infolist() if member.filename.endswith("data/0")]
        archive.filelist += [record] * 20
        archive._didModify = True  # pyright: ignore[reportAttributeAccessIssue]
    for file in _both(buffer.getvalue(), tmp_path):
        with pytest.raises(ValueError, match="its parts overlap"):
            read_state_dict(file)


@pytest.mark.parametrize(("claimed", "size"), [(4, 1000), (10**11, 10**11)])
def test_a_tensor_beyond_the_file_s_bytes_is_refused_without_taking_memory(
    claimed: int, size: int, tmp_path: Path
) -> None:
    head = _text("storage") + _global("torch.FloatStorage") + _text("0") + _text("cpu") + _int(claimed)
    zipped = _zipped(_tensor(b"(" + head + b"tQ", size))
    legacy = _legacy(_tensor(b"(" + head + b"NtQ", size), 4)
    for file in (*_both(zipped, tmp_path), *_both(legacy, tmp_path)):
        with pytest.raises(ValueError, match="expected a whole file of torch.save"):
            read_state_dict(file)


def test_a_state_dict_cannot_answer_for_its_own_items() -> None:
    state = (
        _call("collections.OrderedDict")
        + _text("weight")
        + _int(5)
        + b"s}"
        + _text("items")
        + _global("collections.OrderedDict")
        + b"sb"
    )
    with pytest.raises(ValueError, match="found a int at 'weight'"):
        read_state_dict(_rewritten(_saved({}), pickled=b"\x80\x02" + state + b"."))


def test_weights_come_as_plain_tensors_without_gradients() -> None:
    found = read_state_dict(_saved({"weight": nn.Parameter(torch.ones(2))})).tensors["weight"]
    assert type(found) is Tensor and not found.requires_grad


@pytest.mark.parametrize("protocol", [0, 4])
def test_a_file_of_another_pickle_protocol_is_refused(protocol: int) -> None:
    with pytest.raises(ValueError, match="w.pt: expected a"):
        load_torch(_saved({"weight": torch.ones(2)}, pickle_protocol=protocol), "w.pt")
