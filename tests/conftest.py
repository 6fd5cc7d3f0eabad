"""GPU tests are skipped, with a reason, where there is no GPU; the longest files begin first, so that none is last."""

import pytest
import torch


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.parent.name != "train")
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no GPU here")
    for item in items:
        if item.get_closest_marker("cuda"):  # not `keywords`, which hold the names of folders too
            item.add_marker(skip)
