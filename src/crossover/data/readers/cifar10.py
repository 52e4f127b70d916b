"""CIFAR-10 from its original archive, which is downloaded if missing."""

import http.client
import shutil
import tarfile
import warnings
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from crossover.config import CrossoverError
from crossover.data.readers import Raw
from crossover.store import write_atomically


def read(root: Path, _parts: int | None, scratch: Path) -> Raw:
    """Return what torchvision reads from the archive, or the folder it unpacks to, after comparing checksums."""
    from torchvision.datasets import CIFAR10  # slow to import, and needed only by this dataset
    from torchvision.datasets.utils import calculate_md5, download_url

    archive, unpacked = root / CIFAR10.filename, root / CIFAR10.base_folder
    source = unpacked if unpacked.is_dir() and not archive.exists() else archive
    if not source.exists():
        try:
            download_url(CIFAR10.url, scratch, archive.name, CIFAR10.tgz_md5)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise CrossoverError(
                f"cannot download CIFAR-10 from {CIFAR10.url} ({str(error).strip('<>')}); without a network, put"
                f" {archive.name} into {root}, or use an image folder: data=cifar10_folder data.root=DIR"
            ) from None
        write_atomically(archive, partial(shutil.copyfile, scratch / archive.name))
    # torchvision before 0.29 unpacks without a filter, of which Python 3.12 warns
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        # to a folder where nobody changes a file between its checksum and its use: the batches are pickles
        if source is unpacked:
            shutil.copytree(unpacked, scratch / unpacked.name)
        elif calculate_md5(archive) != CIFAR10.tgz_md5:
            raise RuntimeError
        else:
            shutil.copyfile(archive, scratch / archive.name)
        with warnings.catch_warnings():  # the archive was pickled by an old numpy
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            train, test = (CIFAR10(scratch, train=part, download=source is archive) for part in (True, False))
    except (RuntimeError, tarfile.TarError, zlib.error, EOFError):
        raise CrossoverError(
            f"{source} is damaged: a checksum is not that of CIFAR-10, or it does not unpack; move it away and repeat"
            f" the command to download it again from {CIFAR10.url}"
        ) from None
    labels, test_labels = (np.array(part.targets, np.int64) for part in (train, test))
    return Raw(tuple(train.classes), train.data, labels, test.data, test_labels)
