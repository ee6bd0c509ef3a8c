"""Shards in Parquet and npz: round trips, damage, digests and refusals."""

import hashlib
import io
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dgflow.store.shards import Columns, Format, check_shard, decode_shard, encode_shard, rows_sha256

FORMATS: tuple[Format, ...] = ("parquet", "npz")
DTYPES = ("uint8", "int32", "int64", "float16", "float32", "float64", "bool")


def example(rows: int = 6) -> Columns:
    random = np.random.default_rng(7)
    return {
        "index": np.arange(10, 10 + rows),
        "image": random.integers(0, 256, (rows, 4, 4, 3), dtype=np.uint8),
        "latent": random.normal(size=(rows, 2, 3)).astype(np.float16),
        "log_ratio": random.normal(size=rows).astype(np.float32),
        "moment": random.normal(size=(rows, 1)),
        "mask": random.random((rows, 3)) < 0.5,
        "kept": random.random(rows) < 0.5,
    }


def assert_same(found: Columns, expected: Columns) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape)
        assert found[name].tobytes() == values.tobytes()


@pytest.mark.parametrize("format", FORMATS)
def test_columns_come_back_with_their_dtypes_shapes_and_bits(format: Format) -> None:
    assert_same(decode_shard(encode_shard(example(), format), format), example())


@pytest.mark.parametrize("format", FORMATS)
@given(
    data=st.data(), dtype=st.sampled_from(DTYPES), shape=hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)
)
@settings(deadline=None, max_examples=40)
def test_any_values_come_back_bit_for_bit(
    format: Format, data: st.DataObject, dtype: str, shape: tuple[int, ...]
) -> None:
    columns = {"values": data.draw(hnp.arrays(dtype, shape))}
    assert_same(decode_shard(encode_shard(columns, format), format), columns)


@pytest.mark.parametrize("format", FORMATS)
def test_named_columns_come_in_the_order_of_their_names(format: Format) -> None:
    found = decode_shard(encode_shard(example(), format), format, ["mask", "index"])
    assert_same(found, {name: example()[name] for name in ("mask", "index")})
    with pytest.raises(
        ValueError, match=r"expected the columns \['index', 'nfe'\], found .*: there is no 'nfe'"
    ):
        decode_shard(encode_shard(example(), format), format, ["index", "nfe"])


@pytest.mark.parametrize("format", FORMATS)
def test_big_endian_and_strided_arrays_are_stored_as_little_endian_rows(format: Format) -> None:
    values = np.arange(24, dtype=">f4").reshape(4, 6)[::2, ::3]
    found = decode_shard(encode_shard({"values": values}, format), format)["values"]
    assert found.dtype.str == "<f4"
    assert np.array_equal(found, values)


@pytest.mark.parametrize("format", FORMATS)
def test_decoded_columns_can_be_written_to(format: Format) -> None:
    for values in decode_shard(encode_shard(example(), format), format).values():
        values[0] = 0


@pytest.mark.parametrize("format", FORMATS)
def test_equal_columns_give_equal_bytes(format: Format) -> None:
    assert encode_shard(example(), format) == encode_shard(example(), format)


def test_parquet_is_readable_by_others_as_fixed_shape_tensors_in_row_groups() -> None:
    columns = {"index": np.arange(900), "image": np.zeros((900, 64, 64, 3), np.uint8)}
    data = encode_shard(columns)
    file = pq.ParquetFile(io.BytesIO(data))
    assert file.schema_arrow.field("image").type == pa.fixed_shape_tensor(pa.uint8(), [64, 64, 3])
    assert file.num_row_groups == 2  # 11 MB in groups of 8 MiB
    assert file.metadata.row_group(0).column(1).compression == "ZSTD"
    assert_same(decode_shard(data), columns)


def test_npz_is_readable_by_numpy() -> None:
    with np.load(io.BytesIO(encode_shard(example(), "npz")), allow_pickle=False) as file:
        assert_same(dict(file), example())


def test_a_flipped_byte_in_any_page_is_found() -> None:
    """Page bodies have checksums; a flip in a page's header is found as well, or changes nothing that is
    read."""
    columns = example(3)
    data = encode_shard(columns)
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    found = 0
    for number in range(group.num_columns):
        chunk = group.column(number)
        for position in range(chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size):
            flipped = data[:position] + bytes([data[position] ^ 0x01]) + data[position + 1 :]
            try:
                assert_same(decode_shard(flipped), columns)
            except ValueError as error:
                assert "does not decode" in str(error)
                found += 1
    assert found > 300


def test_a_flipped_byte_in_npz_data_is_found() -> None:
    columns = example(3)
    data = encode_shard(columns, "npz")
    for values in columns.values():
        first = data.index(values.tobytes())
        for position in range(first, first + values.nbytes):
            flipped = data[:position] + bytes([data[position] ^ 0x01]) + data[position + 1 :]
            with pytest.raises(
                ValueError, match="expected a whole npz shard, found one that does not decode"
            ):
                decode_shard(flipped, "npz")


@pytest.mark.parametrize("format", FORMATS)
def test_a_truncated_file_is_found(format: Format) -> None:
    data = encode_shard(example(), format)
    for length in (0, 3, len(data) // 2, len(data) - 1):
        with pytest.raises(
            ValueError, match=f"expected a whole {format} shard, found one that does not decode"
        ):
            decode_shard(data[:length], format)


def test_an_npz_with_a_pickle_in_it_is_not_unpickled() -> None:
    out = io.BytesIO()
    np.savez(out, allow_pickle=True, index=np.array([{"a": "pickle"}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        decode_shard(out.getvalue(), "npz")


def test_the_digest_of_rows_is_of_names_dtypes_shapes_and_bytes() -> None:
    columns = {"index": np.array([5, 6]), "half": np.array([[1.5], [-2.0]], np.float16)}
    by_hand = (
        b'["half","<f2",[2,1]]\n'
        + struct.pack("<2e", 1.5, -2.0)
        + b'["index","<i8",[2]]\n'
        + struct.pack("<2q", 5, 6)
    )
    assert rows_sha256(columns) == hashlib.sha256(by_hand).hexdigest()


def test_the_digest_of_rows_does_not_depend_on_format_byte_order_layout_or_order_of_columns() -> None:
    columns = example()
    digest = rows_sha256(columns)
    for format in FORMATS:
        assert rows_sha256(decode_shard(encode_shard(columns, format), format)) == digest
    assert rows_sha256(dict(reversed(columns.items()))) == digest
    assert rows_sha256({name: np.asfortranarray(values) for name, values in columns.items()}) == digest
    assert (
        rows_sha256({name: values.astype(values.dtype.newbyteorder(">")) for name, values in columns.items()})
        == digest
    )


def test_the_digest_of_rows_tells_names_dtypes_shapes_and_values_apart() -> None:
    base = np.zeros((2, 4), np.float32)
    different = [
        {"a": base},
        {"b": base},
        {"a": base.astype(np.float64)},
        {"a": base.view(np.int32)},
        {"a": base.reshape(2, 2, 2)},
        {"a": base, "b": base},
        {"a": -base},
    ]
    assert len({rows_sha256(columns) for columns in different}) == len(different)


def shard(**changes: Any) -> Columns:
    return {
        "index": np.arange(8, 12),
        "image": np.zeros((4, 2, 2, 3), np.uint8),
        "log_ratio": np.zeros(4, np.float32),
        **changes,
    }


def test_good_rows_are_accepted() -> None:
    check_shard(shard(), 8, 12)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (shard(index=np.array([8, 9, 11, 10])), r"column 'index': expected 10 at row 2, found 11"),
        (shard(index=np.arange(4)), r"column 'index': expected 8 at row 0, found 0"),
        (
            shard(index=np.arange(8, 12, dtype=np.int32)),
            r"column 'index': expected int64 of shape \(rows,\), found int32",
        ),
        (
            shard(index=np.arange(8, 12).reshape(4, 1)),
            r"column 'index': expected int64 of shape \(rows,\), found int64 of shape \(4, 1\)",
        ),
        ({"image": np.zeros((4, 2))}, r"expected a column 'index', found \['image'\]"),
        (
            {name: values[:3] for name, values in shard().items()},
            r"expected 4 rows for the indices 8 to 12, found 3",
        ),
        (shard(log_ratio=np.zeros(3)), r"expected columns of equal length, found .*'log_ratio': 3"),
        (
            shard(log_ratio=np.array([0, 1, np.nan, np.inf])),
            r"column 'log_ratio': .* NaN or infinity at index 10 and in 2 of 4 rows",
        ),
        (
            shard(latent=np.full((4, 2), np.inf, np.float16)),
            r"column 'latent': expected finite values, found NaN or infinity at index 8",
        ),
        (
            shard(label=np.array(["a"] * 4, dtype=object)),
            r"column 'label': expected a dtype of bool, integer or float .* found object",
        ),
        (shard(label=np.zeros(4, complex)), r"column 'label': expected a dtype .* found complex128"),
        (shard(label=np.array(["a"] * 4)), r"column 'label': expected a dtype .* found <U1"),
        (shard(label=[0, 1, 2, 3]), r"column 'label': expected an array with rows first, found list"),
        (shard(label=np.array(3)), r"column 'label': expected an array with rows first"),
        (shard(empty=np.zeros((4, 0))), r"column 'empty': expected at least one value, found shape \(4, 0\)"),
        (shard(**{"a/b": np.zeros(4)}), r"expected column names such as 'log_ratio', found 'a/b'"),
        ({}, r"expected columns of equal length, found no columns"),
    ],
)
def test_bad_rows_are_refused_by_column_and_index(columns: Columns, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_shard(columns, 8, 12)


@pytest.mark.parametrize(("start", "stop"), [(-4, 0), (4, 4), (8, 4)])
def test_an_empty_or_negative_range_is_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=f"expected 0 <= start < stop, found start {start} and stop {stop}"):
        check_shard(shard(), start, stop)
