import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def emulated_module(tmp_path_factory):
    import emulated

    return emulated.build(tmp_path_factory.mktemp("emulated"))
