"""Subjects with small images whose label is easy to see."""

import numpy as np
import torch
import torchio as tio


def subjects(count, *, shape=(16, 16, 16), seed=0, images=("md",), channels=1, **labels):
    """Blobs on the left or on the right: F or M, and NC or AD."""
    rng = np.random.default_rng(seed)
    result = []
    for k in range(count):
        half = slice(0, shape[0] // 2) if k % 2 == 0 else slice(shape[0] // 2, None)
        scans = {}
        for name in images:
            volume = rng.random((channels, *shape), dtype=np.float32)
            volume[:, half] += 1
            scans[name] = tio.ScalarImage(tensor=torch.from_numpy(volume))
        keys = {
            "dataset": f"study{seed}",
            "subject_id": f"{k:03d}",
            "sex": "FM"[k % 2],
            "diagnosis": ("NC", "AD")[k % 2],
        }
        result.append(tio.Subject(**scans, **keys | labels))
    return result
