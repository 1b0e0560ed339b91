"""Pickles from strangers: what is plain is read, what could run is refused."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

import metabox
from metabox.data.safe_pickle import safe_load

# {'data': uint8 [[1 .. 6] in rows of 3], 'class_dict': {'n01': [0, 1]}, 'n': int64(7), 'code': dtype <i4 [1, 2]},
# as Python 2.7 with NumPy 1.16 writes it at protocol 2: text is bytes there, and arrays come by multiarray.
PYTHON_2 = (
    b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85q\x04"
    b"U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02K\x03\x86q\x08cnumpy\ndtype\nq\tU\x02u1q\nK\x00K\x01\x87q\x0bRq\x0c"
    b"(K\x03U\x01|q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89U\x06\x01\x02\x03\x04\xff\x06q\x0ftq\x10b"
    b"U\nclass_dictq\x11}q\x12U\x03n01q\x13]q\x14(K\x00K\x01esU\x01nq\x15cnumpy.core.multiarray\nscalar\nq\x16"
    b"h\tU\x02i8q\x17K\x00K\x01\x87q\x18Rq\x19(K\x03U\x01<q\x1aNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x1bb"
    b"U\x08\x07\x00\x00\x00\x00\x00\x00\x00q\x1c\x86q\x1dRq\x1eu."
)


def written(path: Path, content: object, protocol: int = 5) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_what_python_3_writes_comes_back_at_every_protocol(tmp_path, protocol):
    content = {
        "data": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "by columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big endian": np.array([1, -2], dtype=">i4"),
        "text": np.array(["a", "bcd"]),
        "objects": np.array([b"png", "x", None, [1, 2]], dtype=object),
        "scalar": np.int64(7),
        "empty": np.zeros((0, 3), dtype=np.float32),
        "plain": OrderedDict(a=[1, 2.5, True, None], b=(b"bytes", "tëxt", {3})) if protocol > 3 else [b"bytes", b""],
    }
    if protocol < 3:
        content["plain"] = [b"bytes", 1]
    got = safe_load(written(tmp_path / "a.pkl", content, protocol))
    assert got.keys() == content.keys()
    for name, wanted in content.items():
        if isinstance(wanted, np.ndarray):
            assert got[name].dtype in (wanted.dtype, wanted.dtype.newbyteorder("=")), name
            assert got[name].shape == wanted.shape, name
            assert np.array_equal(np.asarray(got[name]), wanted), name
        else:
            assert got[name] == wanted


def test_what_python_2_wrote_is_read(tmp_path):
    (tmp_path / "old.pkl").write_bytes(PYTHON_2)
    got = safe_load(tmp_path / "old.pkl")
    assert np.asarray(got["data"]).tolist() == [[1, 2, 3], [4, 255, 6]]
    assert got["data"].dtype == np.uint8
    assert got["class_dict"] == {"n01": [0, 1]}
    assert got["n"] == 7


class Calls:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    ("call", "named"),
    [
        (Calls(os.system, "touch {}"), "system"),
        (Calls(eval, "open('{}', 'w')"), "eval"),
        (Calls(getattr, np, "load"), "getattr"),
        (Calls(np.load, "{}"), "load"),
        (Calls(Path, "{}"), "Path"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path, call, named, protocol):
    target = tmp_path / "owned"
    call.call = call.call[0], tuple(a.format(target) if isinstance(a, str) else a for a in call.call[1])
    if call.call[0] is getattr:
        call.call = getattr, ("text", "upper")
    content = {"data": np.zeros(3, dtype=np.uint8), "labels": [call]}
    path = written(tmp_path / "bad.pkl", content, protocol)
    with pytest.raises(ValueError, match=rf"expected a pickle of arrays.*bad\.pkl.*asks for .*{named}"):
        safe_load(path)
    assert not target.exists()


@pytest.mark.parametrize(
    "stream",
    [
        b"cos\nsystem\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.tofile\x93.",  # a name with a dot, reached through what is allowed
        b"cnumpy\nndarray\n(I8\ntR.",  # what stands for ndarray cannot be called
        b"\x80\x02}(X\x01\x00\x00\x00aK\x01u",  # cut off
        b"\x89PNG not a pickle",
        b"",
        b"P1\n.",  # a persistent id
        b"cnumpy\ndtype\n(S'V8'\nI0\nI1\ntR.",  # a record
    ],
)
def test_a_stream_that_is_no_plain_pickle_is_refused_by_name(tmp_path, stream):
    (tmp_path / "bad.pkl").write_bytes(stream)
    with pytest.raises(ValueError, match=r"in .*bad\.pkl, got something else"):
        safe_load(tmp_path / "bad.pkl")


def test_an_array_of_records_is_refused(tmp_path):
    records = np.zeros(2, dtype=[("a", "i4"), ("b", "O")])
    with pytest.raises(ValueError, match="array of"):
        safe_load(written(tmp_path / "a.pkl", records))


def test_an_array_shorter_than_its_shape_is_refused(tmp_path):
    content = PYTHON_2.replace(b"K\x02K\x03\x86", b"K\x7fK\x7f\x86")
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(ValueError, match="something else"):
        safe_load(tmp_path / "a.pkl")


def test_a_pickle_cannot_change_the_reader(tmp_path):
    """BUILD sets attributes; on what the reader hands out there are none that matter."""
    for stream in (
        b"\x80\x02ccollections\nOrderedDict\nN}X\x08\x00\x00\x00__init__K\x01s\x86b.",
        b"\x80\x02cnumpy\ndtype\nN}X\x0c\x00\x00\x00__defaults__K\x01s\x86b.",
    ):
        (tmp_path / "bad.pkl").write_bytes(stream)
        with pytest.raises(ValueError, match="something else"):
            safe_load(tmp_path / "bad.pkl")
    assert OrderedDict(a=1) == {"a": 1}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_random_streams_are_read_or_refused_and_never_crash_hang_or_fill_the_memory():
    """In a process of its own: NumPy believes what it is told of an array, and a crash would take the tests along."""
    root = str(Path(metabox.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, Path(__file__).parents[1].joinpath("fuzz_pickle.py"), "400"],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    read, refused = map(int, done.stdout.split())
    assert read > 10, "the streams are no mere rubbish"
    assert refused > 100


def test_an_array_is_the_readers_own_and_can_be_pickled_and_copied_again(tmp_path):
    got = safe_load(written(tmp_path / "a.pkl", np.arange(6).reshape(2, 3), 2))
    assert np.array_equal(copy.deepcopy(got), pickle.loads(pickle.dumps(got)))
    assert got.flags.owndata
