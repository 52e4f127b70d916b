"""Tiny-ImageNet from its public archive, unpacked."""

from pathlib import Path

import numpy as np

from crossover.config import CrossoverError
from crossover.data.readers import Raw
from crossover.data.readers.folder import flatten, images_in, visible_folders


def read(root: Path, *_: object) -> Raw:
    """Return its `train`; its labelled `val`, as published or sorted into classes, is the test set."""
    annotations = root / "val" / "val_annotations.txt"
    is_sorted = not annotations.exists() and any(path.name != "images" for path in visible_folders(root / "val"))
    needed = ("wnids.txt", "train", "val" if is_sorted else "val/val_annotations.txt")
    if missing := [part for part in needed if not (root / part).exists()]:
        raise CrossoverError(
            f"{root / missing[0]} does not exist: unpack the public archive tiny-imagenet-200.zip there,"
            " or give its folder: data.root=DIR"
        )
    ids = sorted((root / "wnids.txt").read_text().split())
    lines = (root / "words.txt").read_text().splitlines() if (root / "words.txt").exists() else []
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    short = [words.get(wnid, wnid).split(",")[0].strip() for wnid in ids]
    names = tuple(name if short.count(name) == 1 else f"{name} ({wnid})" for name, wnid in zip(short, ids, strict=True))
    train = flatten({wnid: images_in(root / "train" / wnid, []) for wnid in ids}, ids)
    if is_sorted:
        found = {wnid: images_in(root / "val" / wnid, []) for wnid in ids if (root / "val" / wnid).is_dir()}
        return Raw(names, *train, *flatten(found, ids))
    rows = [line.split("\t")[:2] for line in annotations.read_text().splitlines()]
    if unknown := [row for row in rows if len(row) < 2 or row[1] not in ids]:
        raise CrossoverError(f"{annotations}: no class of wnids.txt in the line {unknown[0]}")
    test_labels = np.array([ids.index(wnid) for _, wnid in rows], np.int64)
    return Raw(names, *train, [root / "val" / "images" / name for name, _ in rows], test_labels)
