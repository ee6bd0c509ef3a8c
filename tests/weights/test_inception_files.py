"""Inception's published files: the same tensors from each, and refusal of what is not whole, not Inception,
or would have to be run."""

import io
import pickle
import resource
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from weights.inception_files import (
    CONVOLUTIONS,
    constant,
    graph,
    graph_nodes,
    node,
    pickled,
    port,
    tensor_proto,
    thin_weights,
    torchscript,
    varint,
)
from weights.reading import read_weights
from weights.traps import GLOBALS, Trap

from dgflow.networks.catalogue import CATALOGUE
from dgflow.networks.inception.module import InceptionV3Module
from dgflow.networks.inception.names import NAMES, SCOPES, checked
from dgflow.networks.inception.spec import InceptionV3
from dgflow.weights.tensors import check_fits, save_weights


def _saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _scripted(network: nn.Module) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is on its way out; the file stays
        return torchscript(network)


PLAIN = thin_weights(scaled=False)  # NVIDIA's port has no gamma
FILES: dict[str, bytes] = {
    "inception_pth": _saved({**PLAIN, "Mixed_5b.branch1x1.bn.num_batches_tracked": torch.tensor(7)}),
    "inception_graph": graph(PLAIN),
    "inception_torchscript": _scripted(port(PLAIN)),
    "inception_pickle": pickled(port(PLAIN)),
}


def _same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return list(found) == list(expected) and all(
        found[name].dtype == torch.float32 and torch.equal(found[name], expected[name]) for name in expected
    )


def test_the_names_are_those_of_torch_fidelity_s_network() -> None:
    with torch.device("meta"):
        assert set(NAMES) == set(InceptionV3Module().state_dict())
    assert tuple(PLAIN) == NAMES and len(NAMES) == 472
    assert {scope: module for scope, module, _, _ in CONVOLUTIONS} == SCOPES


@pytest.mark.parametrize("as_path", [True, False])
@pytest.mark.parametrize("format", FILES)
def test_every_file_gives_the_same_tensors_bit_for_bit(format: str, as_path: bool, tmp_path: Path) -> None:
    (tmp_path / "inception").write_bytes(FILES[format])
    found = read_weights(tmp_path / "inception" if as_path else FILES[format], format)
    assert _same(found.tensors, PLAIN) and found.settings == {}
    assert save_weights(found.tensors) == save_weights(PLAIN)


def test_a_graph_of_the_published_size_fits_the_network() -> None:
    with torch.device("meta"):
        network = InceptionV3Module()
    state = {
        name: torch.empty(tensor.shape).fill_(index % 7 + 0.5)
        for index, (name, tensor) in enumerate(network.state_dict().items())
    }
    found = read_weights(graph(state), "inception_graph").tensors
    check_fits(network, found, source="a test")
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name.startswith("inception-")])
def test_a_catalogued_file_has_a_format_that_is_read_here(name: str) -> None:
    assert CATALOGUE[name].format in FILES and CATALOGUE[name].network[""].network == InceptionV3()


# The graph.
@pytest.mark.parametrize("form", ["raw", "floats", "unpacked", "halves"])
def test_each_way_to_write_numbers_is_read(form: str) -> None:
    halves = {name: tensor.half().float() for name, tensor in thin_weights().items()}
    assert _same(read_weights(graph(halves, form=form), "inception_graph").tensors, halves)


@pytest.mark.parametrize(("scales", "applied"), [(True, True), (False, False), (None, True)])
def test_gamma_counts_only_where_the_graph_applies_it(scales: bool | None, applied: bool) -> None:
    expected = thin_weights()
    if not applied:
        expected |= {name: torch.ones(3) for name in expected if name.endswith("bn.weight")}
    assert _same(read_weights(graph(thin_weights(), scales=scales), "inception_graph").tensors, expected)


def _graph_with(**changes: bytes | None) -> bytes:
    nodes: dict[str, bytes | None] = {**graph_nodes(PLAIN), **changes}
    return b"".join(made for made in nodes.values() if made is not None)


def test_a_constant_that_is_handed_on_is_found_and_one_number_stands_for_all() -> None:
    name = "mixed_6/tower/conv_2/batchnorm/gamma"
    nodes = {
        **graph_nodes(thin_weights(), scales=False),
        name: node(name, "Identity", ("frozen/mixed_6",))
        + constant("frozen/mixed_6", tensor_proto(torch.tensor([4.0]), (3,), "floats")),
        "softmax/biases": constant("softmax/biases", tensor_proto(torch.tensor([2.5]), (5,), "floats")),
    }
    found = read_weights(b"".join(nodes.values()), "inception_graph").tensors
    assert torch.equal(found["fc.bias"], torch.full((5,), 2.5))
    assert torch.equal(found["Mixed_6d.branch7x7_3.bn.weight"], torch.ones(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv_1/conv2d_params": None}, r"missing: 'conv_1/conv2d_params'; unexpected: none"),
        ({"softmax/biases": None}, r"missing: 'softmax/biases'"),
        (
            {"extra": constant("mixed_11/conv/conv2d_params", tensor_proto(torch.ones(1), (1,)))},
            r"unexpected: 'mixed_11/conv/conv2d_params'",
        ),
        ({"twice": constant("softmax/biases", tensor_proto(torch.ones(5), (5,)))}, "repeated names: 1"),
        (
            {"softmax/biases": node("softmax/biases", "Identity", ("softmax/biases",))},
            "missing: 'softmax/biases'",
        ),
        (
            {"softmax/biases": constant("softmax/biases", tensor_proto(bytes(19), (5,)))},
            r"'softmax/biases' of shape \[5\], found -1",
        ),
        (
            {"softmax/biases": constant("softmax/biases", tensor_proto(bytes(16), (5,)))},
            r"'softmax/biases' of shape \[5\], found 4",
        ),
        (
            {"softmax/biases": constant("softmax/biases", tensor_proto(torch.ones(3), (5,), "floats"))},
            r"of shape \[5\], found 3",
        ),
        ({"softmax/biases": constant("softmax/biases", tensor_proto(b"", (5,)))}, r"of shape \[5\], found 0"),
        (
            {"softmax/biases": constant("softmax/biases", tensor_proto(bytes(20), (-5,)))},
            "fits into the file",
        ),
        (
            {"softmax/biases": constant("softmax/biases", tensor_proto(torch.ones(5), (1, 5)))},
            r"'fc.bias' as float32 of 1 dim.*\[1, 5\]",
        ),
        ({"softmax/biases": constant("softmax/biases", varint(8) + varint(3))}, "found TensorFlow's type 3"),
        (
            {"softmax/biases": constant("softmax/biases", tensor_proto(torch.ones(1), (10**12,), "floats"))},
            "fits into the file, found",
        ),
        (
            {"softmax/biases": constant("softmax/biases", tensor_proto(bytes(8), (2**62, 2**62)))},
            "fits into the file, found",
        ),
    ],
)
def test_another_graph_is_refused_with_what_is_wrong(changes: dict[str, bytes | None], message: str) -> None:
    with pytest.raises(ValueError, match=f"g.pb: .*{message}"):
        read_weights(_graph_with(**changes), "inception_graph", source="g.pb")


def test_a_batch_norm_with_another_epsilon_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected variance_epsilon 0.001 at 'conv/batchnorm', found 1e-05"):
        read_weights(graph(PLAIN, epsilon=1e-5), "inception_graph")
    assert _same(read_weights(graph(PLAIN, epsilon=None), "inception_graph").tensors, PLAIN)


# What NVIDIA's port may look like beside what is known of it.
def test_a_port_with_modules_inside_its_convolutions_is_read_with_its_gamma() -> None:
    weights = thin_weights()
    assert _same(
        read_weights(_scripted(port(weights, with_norm=True)), "inception_torchscript").tensors, weights
    )


def test_the_output_layer_is_known_by_its_shape_in_either_order() -> None:
    network = port(PLAIN)
    output = network.get_submodule("output")
    output.weight = nn.Parameter(PLAIN["fc.weight"].t().contiguous())
    assert _same(read_weights(pickled(network), "inception_pickle").tensors, PLAIN)


def _renamed(network: nn.Module) -> None:
    convolution: Any = network.get_submodule("layers.mixed.tower.conv_1")
    convolution.shift = nn.Parameter(torch.ones(3))


def _halved(network: nn.Module) -> None:
    network.get_submodule("layers.mixed.tower.conv_1").double()


def _lost(network: nn.Module) -> None:
    tower: Any = network.get_submodule("layers.mixed_9")
    del tower._modules["tower_1_conv_1"]


def _square(network: nn.Module) -> None:
    network.add_module("output", nn.Linear(5, 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_renamed, r"found 'layers.mixed.tower.conv_1.shift \[3\]', 'output.weight \[5, 4\]'"),
        (_halved, r"expected 'Mixed_5b.branch5x5_2.conv.weight' as float32 of 4 dimensions, found float64"),
        (_lost, r"found 467; missing: 'Mixed_7b.branch3x3dbl_2.conv.weight'"),
        (_square, r"a bias as long as one side of the output layer"),
    ],
)
@pytest.mark.parametrize("format", ["inception_pickle", "inception_torchscript"])
def test_a_port_that_is_not_known_is_refused_with_what_was_found(
    change: Callable[[nn.Module], None], message: str, format: str
) -> None:
    network = port(PLAIN)
    change(network)
    with pytest.raises(ValueError, match=f"p: .*{message}"):
        read_weights(
            pickled(network) if format == "inception_pickle" else _scripted(network), format, source="p"
        )


def test_a_state_dict_of_another_network_is_refused_with_the_names() -> None:
    others = {name.replace("Mixed_5b", "Block"): tensor for name, tensor in PLAIN.items()}
    with pytest.raises(
        ValueError,
        match=r"i.pth: expected the 472 .*missing: 'Mixed_5b.* and 29 more; unexpected: 'Block.* and 29 more",
    ):
        read_weights(_saved(others), "inception_pth", source="i.pth")


def test_views_that_claim_more_than_the_network_has_are_refused() -> None:
    claimed = {**PLAIN, "fc.weight": torch.zeros(1, dtype=torch.float16).expand(10**6, 10**6)}
    with pytest.raises(ValueError, match="expected at most 250000000 numbers"):
        checked(claimed, "a test")


# Files that are damaged, or made to harm.
@pytest.mark.parametrize("format", FILES)
def test_a_file_that_was_cut_short_is_refused(format: str) -> None:
    data = FILES[format]
    for part in range(20):
        with pytest.raises(ValueError, match="i: expected"):
            read_weights(data[: len(data) * part // 20], format, source="i")


@pytest.mark.parametrize("format", FILES)
def test_a_file_of_another_format_is_refused(format: str) -> None:
    for other, data in FILES.items():
        if other != format:
            with pytest.raises(ValueError, match="i: "):
                read_weights(data, format, source="i")


def _archive(changes: dict[str, bytes] | None = None, how: dict[str, int] | None = None) -> bytes:
    """The archive of FILES with other members, and some of them compressed."""
    changes, how, buffer = changes or {}, how or {}, io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(FILES["inception_torchscript"])) as old,
        zipfile.ZipFile(buffer, "w") as new,
    ):
        for name in old.namelist():
            inner = name.partition("/")[2]
            new.writestr(f"x/{inner}", changes.get(inner, old.read(name)), how.get(inner, zipfile.ZIP_STORED))
    return buffer.getvalue()


def _pickle_of(old: bytes, new: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(FILES["inception_torchscript"])) as archive:
        pickled_modules = archive.read(
            next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        )
    assert old in pickled_modules
    return pickled_modules.replace(old, new, 1)


@pytest.mark.parametrize("way", GLOBALS)
def test_a_call_in_an_archive_s_pickle_is_refused_by_name_and_not_made(way: str, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    for data in (
        _archive({"data.pkl": pickle.dumps(Trap(mark, way), protocol=2)}),
        pickle.dumps(Trap(mark, way)),
    ):
        format: str = "inception_torchscript" if data[:2] == b"PK" else "inception_pickle"
        with pytest.raises(
            ValueError, match=rf"i: refused.*`.*{GLOBALS[way].rpartition('.')[2]}`.*no code was run"
        ):
            read_weights(data, format, source="i")
    assert not mark.exists()


def test_code_in_an_archive_is_not_looked_at(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    code = f"open({str(mark)!r}, 'w')".encode()
    with zipfile.ZipFile(io.BytesIO(FILES["inception_torchscript"])) as archive:
        names = [name.partition("/")[2] for name in archive.namelist() if "/code/" in name]
    assert names
    assert _same(read_weights(_archive(dict.fromkeys(names, code)), "inception_torchscript").tensors, PLAIN)
    assert not mark.exists()


@pytest.mark.parametrize("member", ["data.pkl", "data/3"])
def test_a_member_that_is_compressed_is_refused(member: str) -> None:
    with pytest.raises(ValueError, match=f"its '{member}' is compressed"):
        read_weights(_archive(how={member: zipfile.ZIP_DEFLATED}), "inception_torchscript")


def test_a_storage_that_is_shorter_than_its_tensors_is_refused() -> None:
    with pytest.raises(ValueError, match="a storage of 54 numbers was announced, 8 bytes are there"):
        read_weights(_archive({"data/0": bytes(8)}), "inception_torchscript")


@pytest.mark.parametrize(
    "shape",
    [
        b"K\x03K\x02K\x03K\x04",
        b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7fK\x03K\x03",
        b"J\xff\xff\xff\xffK\x02K\x03K\x03",
    ],
)
def test_a_tensor_that_reaches_beyond_its_storage_is_refused_without_taking_memory(shape: bytes) -> None:
    data = _archive({"data.pkl": _pickle_of(b"(K\x03K\x02K\x03K\x03t", b"(" + shape + b"t")})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="expected a whole archive of TorchScript"):
        read_weights(data, "inception_torchscript")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.parametrize("shape", [(10**12,), (2**62,)])
@pytest.mark.parametrize("format", ["inception_pickle", "inception_torchscript"])
def test_a_small_storage_that_is_shown_as_terabytes_is_refused(shape: tuple[int, ...], format: str) -> None:
    if format == "inception_pickle":
        network = port(PLAIN)
        convolution: Any = network.get_submodule("layers.conv")
        convolution.beta = nn.Parameter(torch.zeros(1).expand(shape), requires_grad=False)
        data = pickled(network)
    else:
        whole = b"\x8a\x08" + struct.pack("<q", shape[0])
        data = _archive({"data.pkl": _pickle_of(b"K\x00(K\x03t(K\x01t", b"K\x00(" + whole + b"t(K\x00t")})
    with pytest.raises(ValueError, match="expected at most 250000000 numbers, found tensors of"):
        read_weights(data, format)


def test_a_damaged_number_is_found_by_its_checksum() -> None:
    data = bytearray(FILES["inception_torchscript"])
    data[data.find(PLAIN["fc.weight"].numpy().tobytes()) + 3] ^= 1
    with pytest.raises(ValueError, match="Bad CRC-32"):
        read_weights(bytes(data), "inception_torchscript")


def test_modules_in_each_other_without_end_are_refused() -> None:
    loop = b"\x80\x02c__torch__\nLoop\nq\x00)\x81}X\x04\x00\x00\x00nexth\x00sb."
    itself = b"\x80\x02c__torch__\nLoop\n)\x81q\x01}X\x04\x00\x00\x00nexth\x01sb."
    for data, message in ((itself, "without attributes, or 100 deep"), (loop, "one output layer")):
        with pytest.raises(ValueError, match=message):
            read_weights(_archive({"data.pkl": data}), "inception_torchscript")


def test_parts_that_share_their_bytes_are_refused() -> None:
    buffer = io.BytesIO(FILES["inception_torchscript"])
    with zipfile.ZipFile(buffer, "a") as archive:
        (record,) = [member for member in archive.infolist() if member.filename.endswith("data.pkl")]
        archive.filelist += [record] * 20
        archive._didModify = True  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="its parts overlap"):
        read_weights(buffer.getvalue(), "inception_torchscript")
