"""Canonical JSON, fingerprints and differences."""

import copy
import enum
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgflow.store.identity import canonical_json, differences, fingerprint


class Colour(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "text", "sha256"),
    # The digests are those of `printf %s TEXT | sha256sum`.
    [
        (
            {"b": 1, "a": [True, None, "ä"]},
            '{"a":[true,null,"ä"],"b":1}',
            "72ceb93632b72a35f5e2003e47bef9fd1071dc3341732e301fc7b51f040c666a",
        ),
        (
            {"steps": 18, "rho": 7.0, "sigma": (0.002, 80.0)},
            '{"rho":7.0,"sigma":[0.002,80.0],"steps":18}',
            "cdb1d68f6e330dd6eaf137f2e378c66eed73e798878ccd59d66f68ae49d04d6e",
        ),
        ({}, "{}", "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
        (1e-45, "1e-45", "8a61be277ab2db147cadcafeba3ef87aae71c48ffd89805bfc102864d5ff1184"),
    ],
)
def test_a_value_has_one_text_and_one_fingerprint(value: Any, text: str, sha256: str) -> None:
    assert canonical_json(value) == text
    assert fingerprint(value) == sha256


def test_the_order_of_keys_and_the_kind_of_sequence_do_not_matter() -> None:
    assert canonical_json({"a": (1, 2), "b": {"d": 1, "c": 2}}) == canonical_json(
        {"b": {"c": 2, "d": 1}, "a": [1, 2]}
    )


def test_a_float_that_is_a_whole_number_stays_a_float() -> None:
    assert (canonical_json(2.0), canonical_json(2), canonical_json(True)) == ("2.0", "2", "true")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"fields": {"sampler": {"steps": max}}},
            r"fields\.sampler\.steps: .* found a builtins\.builtin.*; a function has no stable",
        ),
        ({"fields": {"loss": lambda: 0}}, r"fields\.loss: .* a function has no stable form"),
        (
            {"guidance": [{"weight": 1.0}, {"weight": math.nan}]},
            r"guidance\[1\]\.weight: .* found the float nan; use None, or a finite",
        ),
        ([math.inf], r"\[0\]: .* found the float inf"),
        ({"a": b"x"}, r"a: .* found a builtins\.bytes; give text"),
        ({"a": np.float64(1.0)}, r"a: .* found a numpy\.float64; call \.item\(\)"),
        ({"a": np.arange(3)}, r"a: .* found a numpy\.ndarray; call \.item\(\) or \.tolist\(\)"),
        ({"a": Colour.RED}, r"a: .* found a .*Colour; give the \.value"),
        ({"a": {1: "x"}}, r"a: .* found the key 1 of type int; use strings as keys"),
        ({"a": {Colour.RED: "x"}}, r"a: .* the key .* of type Colour"),
        ({"a": {"x", "y"}}, r"a: .* found a builtins\.set; give its fields as plain"),
        ({"a": ("x", object())}, r"a\[1\]: .* found a builtins\.object"),
        ({"a": "\ud800"}, r"a: .* a lone surrogate"),
        (
            object(),
            r"value: expected None, bool, int, float, str, list, tuple or dict, found a builtins\.object",
        ),
    ],
)
def test_a_value_without_a_stable_text_is_refused_by_its_path(value: Any, message: str) -> None:
    for refuses in (canonical_json, fingerprint):
        with pytest.raises(ValueError, match=f"^{message}"):
            refuses(value)


names = st.text("abcdef", min_size=1, max_size=3)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
)
plain = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3) | st.dictionaries(names, inner, min_size=1, max_size=3)
    ),
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all leaves."""
    if not isinstance(value, dict | list):
        return [path]
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    return [found for key, item in inside for found in paths(item, (*path, key))]


@given(st.data(), st.dictionaries(names, plain, min_size=1, max_size=4))
def test_changing_any_field_changes_the_fingerprint_and_is_named(
    data: st.DataObject, value: dict[str, Any]
) -> None:
    path = data.draw(st.sampled_from(paths(value)))
    changed = copy.deepcopy(value)
    inside = changed
    for key in path[:-1]:
        inside = inside[key]
    old = inside[path[-1]]
    inside[path[-1]] = new = data.draw(leaves.filter(lambda new: canonical_json(new) != canonical_json(old)))
    assert fingerprint(changed) != fingerprint(value)
    name = re.sub(r"^\.", "", "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path))
    assert differences(value, changed) == [
        f"{name}: recorded {canonical_json(old)}, now {canonical_json(new)}"
    ]


@given(plain)
def test_what_is_equal_has_no_differences(value: Any) -> None:
    assert differences(value, copy.deepcopy(value)) == []
    assert fingerprint(value) == fingerprint(copy.deepcopy(value))


def test_differences_name_what_was_added_and_what_is_gone() -> None:
    recorded = {"kept": 1, "gone": {"deep": [1, 2]}, "list": [1, 2, 3], "kind": 2}
    current = {"kept": 1, "new": "x", "list": [1, 5], "kind": 2.0}
    assert differences(recorded, current) == [
        'gone: recorded {"deep":[1,2]}, now absent',
        "kind: recorded 2, now 2.0",
        "list[1]: recorded 2, now 5",
        "list[2]: recorded 3, now absent",
        'new: recorded absent, now "x"',
    ]


def test_a_long_value_is_cut_in_a_difference() -> None:
    (line,) = differences({"a": "x" * 1000}, {"a": 1})
    assert line == f'a: recorded "{"x" * 159}… (1002 characters), now 1'
