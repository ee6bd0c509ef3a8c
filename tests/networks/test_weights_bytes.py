"""Weights as bytes: exact round trips, the same bytes every time, and refusal of everything that is not a
whole safetensors file."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgflow.weights.tensors import check_fits, load_into, load_weights, save_weights

TENSORS = {
    "b.weight": torch.arange(6.0).reshape(2, 3),
    "a": torch.tensor(3),
    "c": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
}


def test_tensors_come_back_with_their_names_dtypes_shapes_and_bits() -> None:
    loaded = load_weights(save_weights(TENSORS))
    assert loaded.keys() == TENSORS.keys()
    assert all(
        loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)
        for name, tensor in TENSORS.items()
    )


def test_the_same_tensors_give_the_same_bytes_whatever_their_order_and_layout() -> None:
    reordered = dict(reversed(TENSORS.items())) | {"b.weight": TENSORS["b.weight"].T.contiguous().T}
    assert save_weights(reordered) == save_weights(TENSORS)


def test_tensors_that_share_memory_are_saved_each_for_itself() -> None:
    whole = torch.arange(4.0)
    loaded = load_weights(save_weights({"whole": whole, "part": whole[:2]}))
    assert torch.equal(loaded["part"], whole[:2])


class Trap:
    """Leaves a file behind if a reader executes it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("form", ["pickle", "torch.save"])
def test_a_pickle_is_refused_and_nothing_in_it_is_executed(form: str, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    buffer = io.BytesIO()
    if form == "pickle":
        pickle.dump(Trap(mark), buffer)
    else:
        torch.save({"weight": Trap(mark)}, buffer)
    with pytest.raises(ValueError, match=r"a pickle or a torch.save archive.*convert it to safetensors"):
        load_weights(buffer.getvalue())
    assert not mark.exists()


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 60, -1])
def test_a_file_that_was_cut_short_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="expected a whole safetensors file"):
        load_weights(save_weights(TENSORS)[:length])


def test_a_file_with_bytes_after_its_end_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a whole safetensors file"):
        load_weights(save_weights(TENSORS) + b"\0")


def test_a_number_format_that_torch_does_not_have_is_refused() -> None:
    header = json.dumps({"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}).encode()
    with pytest.raises(ValueError, match="'F4'"):
        load_weights(len(header).to_bytes(8, "little") + header + bytes(4))


def test_a_shape_beyond_torch_s_integers_is_refused() -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [0, 2**64 - 1], "data_offsets": [0, 0]}}).encode()
    with pytest.raises(ValueError, match="expected a whole safetensors file"):
        load_weights(len(header).to_bytes(8, "little") + header)


@settings(deadline=None, max_examples=300)
@given(position=st.integers(0, 250), value=st.integers(0, 255))
def test_a_damaged_header_is_read_or_refused_but_never_fails_otherwise(position: int, value: int) -> None:
    data = bytearray(save_weights(TENSORS))
    data[position % len(data)] = value
    try:
        load_weights(bytes(data))
    except ValueError as error:
        assert "expected a whole safetensors file" in str(error)


def test_weights_that_fit_are_loaded_into_parameters_and_buffers() -> None:
    source, target = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    source(torch.randn(8, 3))
    load_into(target, source.state_dict(), source="a test")
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in target.state_dict().items())


def test_weights_that_do_not_fit_are_refused_by_name_and_shape_and_change_nothing() -> None:
    network = torch.nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights = {"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}
    with pytest.raises(ValueError) as raised:
        load_into(network, weights, source="s3://bucket/head.safetensors")
    message = str(raised.value)
    for part in (
        "s3://bucket/head.safetensors",
        "Linear",
        "1 missing (bias)",
        "1 unexpected (scale)",
        "weight expected [2, 3] of float32 found [2, 4] of float32",
    ):
        assert part in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_long_list_of_differences_is_cut_to_a_few_names_and_the_count() -> None:
    with pytest.raises(ValueError, match=r"40 unexpected \(x0, x1, x2, x3 and 36 more\)"):
        load_into(torch.nn.Identity(), {f"x{i}": torch.zeros(1) for i in range(40)}, source="a test")


@pytest.mark.parametrize(
    ("weight", "shown"),
    [
        (torch.ones(4, dtype=torch.complex64), r"\[4\] of complex64"),
        (torch.ones(4, dtype=torch.int64), r"\[4\] of int64"),
        (torch.ones(4, dtype=torch.bool), r"\[4\] of bool"),
        (torch.ones(4).to(torch.float8_e4m3fn), r"\[4\] of float8_e4m3fn"),
        (torch.ones(4, device="meta"), r"\[4\] of float32 without values"),
        (5, "a int"),
    ],
)
def test_weights_of_another_kind_of_number_are_refused_with_both_kinds(weight: Any, shown: str) -> None:
    network = torch.nn.LayerNorm(4, bias=False)
    with pytest.raises(ValueError, match=rf"1 misshaped \(weight expected \[4\] of float32 found {shown}\)"):
        load_into(network, {"weight": weight}, source="a test")
    assert torch.equal(network.weight, torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_weights_may_have_another_format(dtype: torch.dtype) -> None:
    network = torch.nn.LayerNorm(2, bias=False)
    load_into(network, {"weight": torch.tensor([0.5, 2.0], dtype=dtype)}, source="a test")
    assert torch.equal(network.weight, torch.tensor([0.5, 2.0]))


def test_a_network_without_memory_can_be_compared() -> None:
    with torch.device("meta"):
        network = torch.nn.BatchNorm1d(3)
    weights = torch.nn.BatchNorm1d(3).state_dict()
    check_fits(network, weights, source="a test")
    with pytest.raises(ValueError, match="1 missing .bias."):
        check_fits(
            network, {name: tensor for name, tensor in weights.items() if name != "bias"}, source="a test"
        )


def test_a_name_is_shown_in_short_and_without_what_a_terminal_acts_on() -> None:
    with pytest.raises(ValueError, match=r"1 unexpected \(we\\night\\x1b\[31m") as raised:
        load_into(torch.nn.Identity(), {"we\night\x1b[31m" + 1000 * "x": torch.ones(1)}, source="a test")
    assert len(str(raised.value)) < 400
