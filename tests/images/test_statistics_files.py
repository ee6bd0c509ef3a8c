"""Reference moments: read as float64, with a digest of the numbers alone; other contents of the file are not
read."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from weights.traps import Trap

from dgflow.images.statistics import has_images, has_statistics, read_statistics


def moments(width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rows = np.random.default_rng(seed).normal(size=(50, width))
    return rows.mean(0), np.cov(rows.T)


def test_both_pairs_are_read_without_the_images_beside_them(tmp_path):
    (mu, sigma), (mu_s, sigma_s) = moments(8), moments(5, 1)
    # Reading an array of objects would raise an error.
    np.savez(tmp_path / "a.npz", mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s, arr_0=np.array([{}], object))
    found = read_statistics(str(tmp_path / "a.npz"))
    assert found is not None and found.mu_s is not None and found.sigma_s is not None
    for array, expected in [
        (found.mu, mu),
        (found.sigma, sigma),
        (found.mu_s, mu_s),
        (found.sigma_s, sigma_s),
    ]:
        assert array.dtype == np.float64 and (array == expected).all()
    assert has_statistics(str(tmp_path / "a.npz")) and has_images(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("protocol", [4, 5])
def test_edm2_s_pickle_gives_the_moments_of_fid_and_no_others(tmp_path, protocol):
    (mu, sigma), (other, _) = moments(8), moments(5, 1)
    content = {"fid": {"mu": mu, "sigma": np.asfortranarray(sigma)}, "num_images": np.int64(50)}
    content |= {"fd_dinov2": {"mu": other, "sigma": np.eye(5)}}
    (tmp_path / "img8.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    np.savez(tmp_path / "a.npz", mu=mu, sigma=sigma)
    found, same = (read_statistics(str(tmp_path / name)) for name in ("img8.pkl", "a.npz"))
    assert found is not None and same is not None and found.digest == same.digest
    assert (found.mu == mu).all() and (found.sigma == sigma).all() and found.mu_s is None
    assert has_statistics(str(tmp_path / "img8.pkl")) and not has_images(str(tmp_path / "img8.pkl"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            pickle.dumps({"fid": {"mu": Trap(Path("executed"))}}),
            r"a pickle that calls `posix\.system`; no code was run",
        ),
        (pickle.dumps({"fd_dinov2": {}}), "arrays under 'fid', found another kind of file or a damaged one"),
        (pickle.dumps({"fid": {"mu": np.zeros(3)}})[:-20], "another kind of file or a damaged one"),
        (pickle.dumps({"fid": {"mu": np.array(["a", "b"])}}), "another kind of file or a damaged one"),
        (pickle.dumps({"fid": [1.0]}), "another kind of file or a damaged one .*expected a dict, found list"),
        (b"no pickle", "another kind of file or a damaged one"),
    ],
    ids=["code", "no fid", "cut short", "texts", "list", "text"],
)
def test_another_pickle_is_refused_and_nothing_in_it_is_run(tmp_path, monkeypatch, content, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read_statistics(str(tmp_path / "a.pkl"))
    assert not (tmp_path / "executed").exists()


def test_the_digest_depends_on_the_numbers_and_on_nothing_else(tmp_path):
    mu, sigma = (each.astype(np.float32) for each in moments(8))
    np.savez(tmp_path / "a.npz", mu=mu, sigma=sigma)
    np.savez_compressed(
        tmp_path / "b.npz",
        sigma=np.asfortranarray(sigma.astype(">f8")),
        other=np.zeros(3),
        mu=mu.astype(np.float64),
    )
    np.savez(tmp_path / "c.npz", mu=mu, sigma=np.nextafter(sigma, np.float32(9)))
    a, b, c = (read_statistics(str(tmp_path / f"{name}.npz")) for name in "abc")
    assert a is not None and b is not None and c is not None
    assert a.digest == b.digest != c.digest
    assert (a.mu_s, a.sigma_s) == (None, None) and (b.sigma == sigma).all()


def test_a_file_without_moments_has_none(tmp_path):
    np.savez(tmp_path / "a.npz", np.zeros((2, 4, 4, 3), np.uint8))
    assert read_statistics(str(tmp_path / "a.npz")) is None and not has_statistics(str(tmp_path / "a.npz"))
    assert read_statistics(str(tmp_path)) is None and has_images(str(tmp_path))
    np.savez(tmp_path / "b.npz", mu=np.zeros(2), sigma=np.eye(2))
    assert not has_images(str(tmp_path / "b.npz"))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (dict(mu=np.zeros(3)), "expected mu and sigma together"),
        (dict(mu_s=np.zeros(3), sigma_s=np.eye(3)), "expected mu and sigma together"),
        (dict(mu=np.zeros(3), sigma=np.eye(3), sigma_s=np.eye(3)), "expected mu_s and sigma_s together"),
        (dict(mu=np.zeros(3), sigma=np.eye(4)), r"found \(3,\) and \(4, 4\)"),
        (dict(mu=np.zeros((3, 1)), sigma=np.eye(3)), r"found \(3, 1\) and \(3, 3\)"),
        (dict(mu=np.array([0, np.nan]), sigma=np.eye(2)), "finite numbers in mu"),
        (dict(mu=np.array(["a", "b"]), sigma=np.eye(2)), "finite numbers in mu"),
        (dict(mu=np.array([{}, {}], object), sigma=np.eye(2)), "allow_pickle"),
        (dict(mu=np.zeros(2, np.float16), sigma=np.eye(2)), "expected float64 or float32 in mu of .*float16"),
        (dict(mu=np.zeros(2), sigma=np.eye(2, dtype=np.float16)), "float32 in sigma of .*found float16"),
        (dict(mu=np.zeros(2), sigma=np.eye(2, dtype=np.int64)), "float32 in sigma of .*found int64"),
        (
            dict(mu=np.zeros(2), sigma=np.array([[1, 0.5], [0, 1]])),
            r"not symmetric: \[0, 1\] is 0.5, \[1, 0\]",
        ),
        (dict(mu=np.zeros(2), sigma=np.diag([1.0, -1])), "has a variance < 0: -1 of feature 1"),
        # Its eigenvalues are 3 and -1.
        (
            dict(mu=np.zeros(2), sigma=np.array([[1.0, 2], [2, 1]])),
            "semidefinite: its lowest eigenvalue is -1;",
        ),
    ],
)
def test_moments_of_another_form_say_what_was_found(tmp_path, arrays, says):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=says):
        read_statistics(str(tmp_path / "a.npz"))


def test_covariances_of_fewer_rows_than_features_and_of_float32_are_taken(tmp_path):
    rows = np.random.default_rng(1).normal(size=(20, 60)).astype(np.float32)
    for place, sigma in enumerate((np.cov(rows.T).astype(np.float32), np.zeros((60, 60)), np.cov(rows.T))):
        np.savez(tmp_path / f"{place}.npz", mu=rows.mean(0), sigma=sigma)
        assert read_statistics(str(tmp_path / f"{place}.npz")) is not None


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"expected an npz at .*a\.npz, found no file there"):
        read_statistics(str(tmp_path / "a.npz"))


def test_moments_are_read_from_s3(tmp_path, s3_url):
    from dgflow.files.locations import S3Location

    mu, sigma = moments(8)
    np.savez(tmp_path / "a.npz", mu=mu, sigma=sigma)
    place = S3Location(f"{s3_url}/a.npz".removeprefix("s3://"))
    place.request(
        "write", lambda fs: fs.pipe_file(f"{place.bucket}/{place.key}", (tmp_path / "a.npz").read_bytes())
    )
    local, remote = read_statistics(str(tmp_path / "a.npz")), read_statistics(f"{s3_url}/a.npz")
    assert local is not None and remote is not None and local.digest == remote.digest
