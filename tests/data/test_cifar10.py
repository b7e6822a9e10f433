import gzip
import io
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch

from tcertify.data import cifar10

N = 20


@pytest.fixture(autouse=True)
def _small_files(monkeypatch):
    monkeypatch.setattr(cifar10, "IMAGES_PER_FILE", N)


def images(seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (N, 3072), np.uint8), rng.integers(0, 10, N)


def binary(seed):
    pixels, labels = images(seed)
    return np.hstack([labels[:, None].astype(np.uint8), pixels]).tobytes()


def python(seed, fortran=False, code=b"u1", shape=(N, 3072)):
    """Return a batch as Python 2 pickled it in 2009: protocol 2, strings of bytes."""
    pixels, labels = images(seed)

    def string(content):
        if len(content) < 256:
            return b"U" + struct.pack("<B", len(content)) + content
        return b"T" + struct.pack("<i", len(content)) + content

    def number(value):
        return b"J" + struct.pack("<i", value)

    content = pixels.tobytes("F" if fortran else "C")
    array = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n"
    array += number(0) + b"\x85" + string(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + string(code) + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + string(b"|") + b"NNN" + number(-1) * 2 + number(0) + b"tb"
    rows, columns = shape
    state = b"(" + number(1) + number(rows) + number(columns) + b"\x86" + dtype
    state += (b"\x88" if fortran else b"\x89") + string(content) + b"tb"
    body = string(b"data") + array + state
    body += string(b"labels") + b"](" + b"".join(number(int(v)) for v in labels) + b"e"
    body += string(b"batch_label") + string(b"training batch 1 of 5")
    return b"\x80\x02}(" + body + b"u."


def write(root, split_files, content):
    for seed, name in enumerate(split_files["train"] + split_files["test"]):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content(seed))


def write_archive(path, split_files, content):
    with tarfile.open(path, "w:gz") as tar:
        for seed, name in reversed(list(enumerate(split_files["train"] + split_files["test"]))):
            data = content(seed)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


WRITERS = {
    "binary": lambda root: write(root, cifar10.BINARY, binary),
    "python": lambda root: write(root, cifar10.PYTHON, python),
    "python-fortran": lambda root: write(
        root, cifar10.PYTHON, lambda seed: python(seed, fortran=True)
    ),
    "binary-archive": lambda root: write_archive(
        root / "cifar-10-binary.tar.gz", cifar10.BINARY, binary
    ),
    "python-archive": lambda root: write_archive(
        root / "cifar-10-python.tar.gz", cifar10.PYTHON, python
    ),
}


@pytest.mark.parametrize("version", WRITERS)
def test_every_version_gives_the_same_images_labels_and_fingerprint(tmp_path, version):
    WRITERS[version](tmp_path)
    train, test = cifar10.load("train", tmp_path), cifar10.load("test", tmp_path)
    assert (len(train), len(test)) == (5 * N, N)
    for data, seeds in ((train, range(5)), (test, [5])):
        pixels, labels = (np.concatenate(part) for part in zip(*map(images, seeds), strict=True))
        assert data.num_classes == 10
        assert [data[i][1] for i in range(len(data))] == labels.tolist()
        stacked = torch.stack([data[i][0] for i in range(len(data))])
        assert stacked.dtype == torch.float32
        expected = torch.from_numpy(pixels.reshape(-1, 3, 32, 32).astype(np.float32)) / 255
        assert torch.equal(stacked, expected)
    assert train.fingerprint() != test.fingerprint()
    WRITERS["binary"](tmp_path)
    assert cifar10.load("train", tmp_path).fingerprint() == train.fingerprint()


def test_a_real_file_has_ten_thousand_records_of_3073_bytes(monkeypatch):
    monkeypatch.undo()
    assert cifar10.IMAGES_PER_FILE * cifar10.RECORD == 30_730_000


@pytest.mark.parametrize("index", [-1, 100])
def test_an_index_outside_the_data_is_refused(tmp_path, index):
    WRITERS["binary"](tmp_path)
    with pytest.raises(IndexError, match=rf"`index` must be in \[0, 100\), got {index}\."):
        cifar10.load("train", tmp_path)[index]


def test_absent_data_say_where_to_obtain_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"put cifar-10-binary\.tar\.gz there, from https"):
        cifar10.load("train", tmp_path)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`split` must be 'train' or 'test', got 'val'\."):
        cifar10.load("val", tmp_path)


@pytest.mark.parametrize("version", ["binary", "python"])
def test_a_missing_file_is_named(tmp_path, version):
    WRITERS[version](tmp_path)
    (missing,) = tmp_path.glob("*/data_batch_3*")
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_3\S* is missing"):
        cifar10.load("train", tmp_path)


def test_a_truncated_binary_file_is_named_with_its_bytes(tmp_path):
    WRITERS["binary"](tmp_path)
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=r"data_batch_2\.bin has 61,459 bytes, a CIFAR-10 file has 61,460\."
    ):
        cifar10.load("train", tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 100, 30_000, 61_000])
def test_a_truncated_python_file_is_named_with_its_bytes(tmp_path, kept):
    WRITERS["python"](tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"test_batch \({kept:,} bytes\) is truncated"):
        cifar10.load("test", tmp_path)


def test_a_truncated_archive_is_named_with_its_bytes(tmp_path):
    WRITERS["binary-archive"](tmp_path)
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz \(5000 bytes\) is truncated"):
        cifar10.load("train", tmp_path)


def test_an_archive_without_a_batch_names_it(tmp_path):
    with gzip.open(tmp_path / "cifar-10-python.tar.gz", "wb") as file:
        file.write(bytes(10240))
    with pytest.raises(FileNotFoundError, match=r"lacks cifar-10-batches-py/data_batch_1\."):
        cifar10.load("train", tmp_path)


def test_a_truncated_member_of_an_archive_is_named_with_its_bytes(tmp_path):
    write_archive(tmp_path / "cifar-10-binary.tar.gz", cifar10.BINARY, lambda s: binary(s)[:999])
    with pytest.raises(ValueError, match=r"tar\.gz:\S+/test_batch\.bin has 999 bytes"):
        cifar10.load("test", tmp_path)


@pytest.mark.parametrize("version", ["binary", "python"])
def test_a_label_of_ten_is_refused(tmp_path, version, monkeypatch):
    pixels, labels = images(0)
    labels[7] = 10
    monkeypatch.setitem(globals(), "images", lambda seed: (pixels, labels))
    WRITERS[version](tmp_path)
    with pytest.raises(ValueError, match=r"holds (a|the) label.* outside \[0, 10\)\."):
        cifar10.load("test", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: pickle.dumps({b"data": print}), "it asks for .*print"),
        (lambda: python(0, code=b"O8"), "it holds elements of type b'O8'"),
        (lambda: python(0, shape=(3072, N)), r"holds uint8 of shape \(3072, 20\)"),
        (lambda: pickle.dumps({b"labels": [1]}), "data"),
        (lambda: b"\x80\x02}r\xff\xff\xff\x7f.", "it numbers an object 2147483647"),
        (
            lambda: pickle.dumps({b"data": bytearray(N * 3072), b"labels": [0]}, protocol=2),
            "it asks for",
        ),
    ],
)
def test_a_pickle_that_is_no_batch_is_refused(tmp_path, content, message):
    WRITERS["python"](tmp_path)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(content())
    with pytest.raises(ValueError, match=message):
        cifar10.load("test", tmp_path)


def test_labels_that_do_not_fit_are_refused(tmp_path):
    WRITERS["python"](tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    batch = python(5)
    start = batch.index(b"](")
    path.write_bytes(batch[: start + 2] + batch[start + 7 :])
    with pytest.raises(ValueError, match=r"holds labels of shape \(19,\)"):
        cifar10.load("test", tmp_path)


def test_a_hostile_pickle_is_refused_unrun(tmp_path):
    class Payload:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    WRITERS["python"](tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(pickle.dumps({b"data": Payload(), b"labels": [0]}, protocol=2))
    with pytest.raises(ValueError, match="it asks for"):
        cifar10.load("test", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_no_flipped_bit_of_an_archive_gives_other_pixels(tmp_path):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    WRITERS["binary-archive"](tmp_path)
    whole, expected = archive.read_bytes(), cifar10.load("test", tmp_path).fingerprint()
    damaged = 0
    for at in range(40, len(whole), len(whole) // 25):
        archive.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            assert cifar10.load("test", tmp_path).fingerprint() == expected
        except (ValueError, FileNotFoundError):
            damaged += 1
    assert damaged >= 20
