"""Small files as CIFAR-10's and CIFAR-100's versions for Python are, for training/dataset: the dictionaries that the sets' page describes
(https://www.cs.toronto.edu/~kriz/cifar.html), written as Python 2 wrote them (protocol 2, strings of bytes), and as Python 3 writes them in
protocols 2, 4 and 5. Pixel j of image i of a file is (31 i + 7 j + first) mod 256.

    python scripts/golden/training/dataset/cifar.py [folder]     writes training/dataset/testdata/cifar/

numpy's version is printed; its pickles name numpy._core, Python 2's named numpy.core.
"""

import io
import os
import pickle
import struct
import sys
import tarfile

import numpy

ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "training", "dataset", "testdata", "cifar")


class Python2(pickle._Pickler):
    """Writes str and bytes as Python 2 did its str, and NumPy's names as they were."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_str2(self, obj):
        data = obj if isinstance(obj, bytes) else obj.encode("latin1")
        if len(data) < 256:
            self.write(pickle.SHORT_BINSTRING + struct.pack("<B", len(data)) + data)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(obj)

    def save_global2(self, obj, name=None):
        module = obj.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{obj.__name__}\n".encode())
        self.memoize(obj)

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, (str, bytes)):
            x = self.memo.get(id(obj))
            return self.write(self.get(x[0])) if x else self.save_str2(obj)
        if isinstance(obj, type) or type(obj).__name__ == "builtin_function_or_method":
            x = self.memo.get(id(obj))
            return self.write(self.get(x[0])) if x else self.save_global2(obj)
        return super().save(obj, save_persistent_id)


def python2(v):
    b = io.BytesIO()
    Python2(b, 2).dump(v)
    back = pickle.loads(b.getvalue(), encoding="latin1")  # as torchvision reads it
    assert back.keys() == v.keys()
    return b.getvalue()


def pixels(n, first):
    i, j = numpy.arange(n)[:, None], numpy.arange(3072)[None]
    return ((31 * i + 7 * j + first) % 256).astype(numpy.uint8)


def batch(n, first, **labels):
    return {"data": pixels(n, first), **labels, "batch_label": "a batch", "filenames": [f"image_{k}.png" for k in range(n)]}


ten = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
files = {
    "cifar-10-batches-py/data_batch_2": python2(batch(2, 100, labels=[6, 9])),
    "cifar-10-batches-py/data_batch_1": python2(batch(3, 10, labels=[3, 0, 8])),
    "cifar-10-batches-py/readme.html": b"<a>",
    "cifar-10-batches-py/test_batch": python2(batch(1, 200, labels=[5])),
    "cifar-10-batches-py/batches.meta": python2({"num_cases_per_batch": 3, "label_names": ten, "num_vis": 3072}),
}
os.makedirs(out, exist_ok=True)
with tarfile.open(os.path.join(out, "cifar-10-python.tar.gz"), "w:gz") as tar:
    for name, data in files.items():
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))

# CIFAR-100, written again by Python 3: what it was read as in its two ways, and in several protocols.
fine, coarse = [f"fine {k}" for k in range(100)], [f"coarse {k}" for k in range(20)]
latin = batch(2, 1, fine_labels=[99, 7], coarse_labels=[1, 2])
raw = {k.encode(): v for k, v in batch(1, 2, fine_labels=[42], coarse_labels=[3]).items()}
where = os.path.join(out, "cifar-100-python")
os.makedirs(where, exist_ok=True)
for name, v, protocol in (("train", latin, 2), ("test", raw, 4), ("meta", {"fine_label_names": fine, "coarse_label_names": coarse}, 5)):
    with open(os.path.join(where, name), "wb") as f:
        pickle.dump(v, f, protocol)
with open(os.path.join(out, "protocol5"), "wb") as f:
    pickle.dump(batch(1, 3, labels=[4]), f, 5)
print("numpy", numpy.__version__)
