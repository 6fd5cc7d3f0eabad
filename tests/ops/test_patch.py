"""`patch()` against fake libraries: real files on a temporary path, imported, patched and put back."""

import itertools
import math
import pickle
import subprocess
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

import vgen_fast
from vgen_fast.ops import compat

X, W, S = torch.ones(2, 3, 4, 4), torch.ones(5, 3, 3, 3), torch.ones(2, 3)
F4 = compat.setup_filter([1, 3, 3, 1])
NVLABS = {
    "torch_utils": "",
    "torch_utils.ops": "",
    "torch_utils.ops.bias_act": """
def bias_act(x, b=None, dim=1, act='linear', alpha=None, gain=None, clamp=None, impl='cuda'): return 'theirs'
""",
    "torch_utils.ops.upfirdn2d": """
def setup_filter(f, device=None, normalize=True, flip_filter=False, gain=1, separable=None): return 'theirs'
def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl='cuda'): return 'theirs'
def upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1, impl='cuda'): return upfirdn2d(x, f)
""",
    "training": "",
    "training.networks_stylegan2": """
from torch_utils.ops import bias_act, upfirdn2d
from torch_utils.ops.bias_act import bias_act as act
def hidden(*args, **kwargs): return 'theirs'
modulated_conv2d = hidden
def layer(x): return bias_act.bias_act(x, act='lrelu')
def short(x): return act(x, act='lrelu')
""",
}
ROSINALITY = {
    "op": "from .fused_act import FusedLeakyReLU, fused_leaky_relu\nfrom .upfirdn2d import upfirdn2d",
    "op.fused_act": """
class FusedLeakyReLU:
    def __call__(self, x): return fused_leaky_relu(x, None)
def fused_leaky_relu(input, bias=None, negative_slope=0.2, scale=2 ** 0.5): return 'theirs'
""",
    "op.upfirdn2d": "def upfirdn2d(input, kernel, up=1, down=1, pad=(0, 0)): return 'theirs'",
    "rosinality_model": "from op import FusedLeakyReLU, fused_leaky_relu, upfirdn2d",
}


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Writes a fake library as real files, importable for one test."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)

    def write(sources):
        for name, source in sources.items():
            package = any(other.startswith(f"{name}.") for other in sources)
            path = (
                tmp_path.joinpath(*name.split(".")) / "__init__.py" if package else tmp_path.joinpath(*name.split("."))
            )
            path = path if package else path.with_name(f"{path.name}.py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)

    yield write
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("torch_utils", "training", "op", "rosinality_model"):
            del sys.modules[name]
    assert not compat.patching._swaps
    assert not compat.patching._active
    assert compat.patching._FINDER not in sys.meta_path


@pytest.fixture
def nvlabs(library):
    library(NVLABS)
    import training.networks_stylegan2 as networks

    return networks


def contents(*prefixes):
    return {
        (name, key): value
        for name, module in sys.modules.items()
        if name.split(".")[0] in prefixes and isinstance(module, ModuleType)
        for key, value in vars(module).items()
    }


def same(a, b):
    return a.keys() == b.keys() and all(a[key] is b[key] for key in a)


def test_patch_replaces_every_holder_and_undo_restores_the_same_objects(nvlabs):
    before = contents("torch_utils", "training")
    x = torch.tensor([[-1.0, 1.0]])
    assert nvlabs.layer(x) == "theirs"
    handle = vgen_fast.patch("nvlabs")
    for call in (nvlabs.layer, nvlabs.short):
        torch.testing.assert_close(call(x), F.leaky_relu(x, 0.2) * math.sqrt(2))
    assert sorted(handle.replaced) == [
        "torch_utils.ops.bias_act.bias_act",
        "torch_utils.ops.upfirdn2d.setup_filter",
        "torch_utils.ops.upfirdn2d.upfirdn2d",
        "torch_utils.ops.upfirdn2d.upsample2d",
        "training.networks_stylegan2.act",
        "training.networks_stylegan2.hidden",
        "training.networks_stylegan2.modulated_conv2d",
    ]
    assert handle.skipped == []
    assert "bias_act" in repr(handle)
    assert nvlabs.modulated_conv2d(X, W, S, padding=1).shape == (2, 5, 4, 4)
    handle.undo()
    assert same(before, contents("torch_utils", "training"))
    handle.undo()
    assert same(before, contents("torch_utils", "training"))


def test_patch_switches_choose_the_ops(nvlabs):
    with compat.patch("nvlabs", upfirdn2d=False, modulated_conv2d=False) as handle:
        assert handle.replaced == ["torch_utils.ops.bias_act.bias_act", "training.networks_stylegan2.act"]
        assert nvlabs.upfirdn2d.upfirdn2d(None, None) == "theirs"
    assert nvlabs.layer(None) == "theirs"


def test_patch_leaves_the_block_undone_after_an_exception(nvlabs):
    with pytest.raises(KeyError), compat.patch("nvlabs"):
        raise KeyError
    assert nvlabs.layer(None) == "theirs"


def test_patch_leaves_our_own_functions_alone(nvlabs):
    nvlabs.ours = compat.bias_act
    with compat.patch("nvlabs"):
        assert nvlabs.ours is compat.bias_act
        assert nvlabs.bias_act.bias_act is not compat.bias_act
    assert nvlabs.ours is compat.bias_act


def test_patched_function_pickles_by_the_librarys_name(nvlabs):
    with compat.patch("nvlabs"):
        data = pickle.dumps(nvlabs.bias_act.bias_act)
    assert pickle.loads(data)(None) == "theirs"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_nested_patches_undo_in_any_order(nvlabs, order):
    before = contents("torch_utils", "training")
    handles = [compat.patch("nvlabs"), compat.patch("nvlabs", upfirdn2d=False), compat.patch("nvlabs", bias_act=False)]
    wants_bias_act = {0, 1}
    for index in order:
        assert (nvlabs.bias_act.bias_act is not before["torch_utils.ops.bias_act", "bias_act"]) == bool(wants_bias_act)
        handles[index].undo()
        handles[index].undo()
        wants_bias_act -= {index}
    assert same(before, contents("torch_utils", "training"))


def test_modules_imported_later_are_patched_and_restored(library):
    library(NVLABS)
    import torch_utils.ops.bias_act as module

    original = module.bias_act
    handle = compat.patch("nvlabs")
    assert handle.replaced == ["torch_utils.ops.bias_act.bias_act"]
    import training.networks_stylegan2 as networks

    assert networks.modulated_conv2d(X, W, S, padding=1).shape == (2, 5, 4, 4)
    assert networks.upfirdn2d.upsample2d(X, None).shape == (2, 3, 8, 8)
    assert "training.networks_stylegan2.modulated_conv2d" in handle.replaced
    assert type(networks.__loader__) is type(networks.__spec__.loader) is type(module.__loader__)
    handle.undo()
    assert networks.act is module.bias_act is original
    assert networks.modulated_conv2d(X) == networks.upfirdn2d.upsample2d(X, None) == "theirs"


def test_reloaded_module_is_patched_again_and_restored_to_its_new_function(nvlabs):
    import importlib

    old = nvlabs.bias_act.bias_act
    with compat.patch("nvlabs"):
        importlib.reload(nvlabs.bias_act)
        assert torch.equal(nvlabs.layer(torch.ones(1, 1)), torch.full((1, 1), math.sqrt(2)))
    assert nvlabs.layer(None) == "theirs"
    assert nvlabs.bias_act.bias_act is not old


def test_undo_names_what_somebody_else_replaced_and_can_be_finished(nvlabs):
    before = contents("torch_utils", "training")
    handle = compat.patch("nvlabs")
    ours, nvlabs.bias_act.bias_act = nvlabs.bias_act.bias_act, print
    with pytest.raises(RuntimeError, match=r"torch_utils\.ops\.bias_act\.bias_act was replaced again since; undo that"):
        handle.undo()
    assert nvlabs.bias_act.bias_act is print
    assert nvlabs.upfirdn2d.upfirdn2d is before["torch_utils.ops.upfirdn2d", "upfirdn2d"]
    nvlabs.bias_act.bias_act = ours
    handle.undo()
    assert same(before, contents("torch_utils", "training"))


def test_functions_of_other_parameters_are_skipped_and_said(library):
    other = "def modulated_conv2d(x, w, s, demodulate=True, padding=0, input_gain=None): return 'theirs'"
    library({**NVLABS, "training.networks": other})
    import training.networks
    from torch_utils.ops import bias_act  # noqa: F401

    with compat.patch("nvlabs") as handle:
        assert training.networks.modulated_conv2d(1, 2, 3) == "theirs"
        parameters = "x, w, s, demodulate, padding, input_gain"
        assert handle.skipped == [f"training.networks.modulated_conv2d has other parameters ({parameters})"]
    with pytest.raises(
        ValueError, match=r"nothing of nvlabs to replace: training\.networks\.modulated_conv2d has other"
    ):
        compat.patch("nvlabs", bias_act=False)


def test_patch_of_rosinality_reaches_the_model_that_imported_by_name(library):
    library(ROSINALITY)
    import op
    import rosinality_model as model

    before = contents("op", "rosinality_model")
    x = torch.tensor([[-1.0, 1.0]])
    with vgen_fast.patch("rosinality") as handle:
        assert {"op.fused_leaky_relu", "op.fused_act.fused_leaky_relu", "rosinality_model.upfirdn2d"} <= set(
            handle.replaced
        )
        torch.testing.assert_close(model.FusedLeakyReLU()(x), F.leaky_relu(x, 0.2) * math.sqrt(2))
        assert model.upfirdn2d(X, F4, up=2, pad=(2, 1)).shape == (2, 3, 8, 8)
        assert op.fused_act.fused_leaky_relu is op.fused_leaky_relu is model.fused_leaky_relu
    assert same(before, contents("op", "rosinality_model"))
    with compat.patch("rosinality", upfirdn2d=False):
        assert model.upfirdn2d(1, 2) == "theirs"


def test_patch_works_on_modules_made_by_hand(monkeypatch):
    module = ModuleType("op")
    module.fused_leaky_relu = original = lambda input, bias=None, negative_slope=0.2, scale=2**0.5: "theirs"
    module.upfirdn2d = ModuleType("op.upfirdn2d")  # as when the package does not import the function
    monkeypatch.setitem(sys.modules, "op", module)
    with compat.patch("rosinality") as handle:
        assert handle.replaced == ["op.fused_leaky_relu"]
        monkeypatch.delitem(sys.modules, "op")
    assert module.fused_leaky_relu is original


def test_both_libraries_can_be_patched_at_once(library):
    library(NVLABS)
    library(ROSINALITY)
    import op
    import torch_utils.ops.upfirdn2d as module

    with compat.patch("nvlabs"), compat.patch("rosinality"):
        assert module.upfirdn2d(X, F4, padding=[1, 2]).shape == (2, 3, 5, 3)
        assert op.upfirdn2d(X, F4, pad=(1, 2)).shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("args", "switches", "sentence"),
    [
        (("mmcv",), {}, "patch: library must be one of nvlabs, rosinality, got 'mmcv'"),
        (("nvlabs",), {"fma": True}, "patch: switches of nvlabs are bias_act, upfirdn2d, modulated_conv2d, got 'fma'"),
        (("rosinality",), {"upfirdn2d": 1}, "patch: upfirdn2d must be True or False, got 1"),
        (
            ("rosinality",),
            {},
            "patch: nothing of rosinality to replace: none of the modules op.fused_act, op, op.upfirdn2d is",
        ),
    ],
)
def test_patch_refuses_with_one_sentence(args, switches, sentence):
    with pytest.raises(ValueError) as error:
        vgen_fast.patch(*args, **switches)
    assert str(error.value).startswith(sentence)


def test_importing_patches_nothing_and_leaves_the_import_system_alone():
    code = "import sys; before = list(sys.meta_path); import vgen_fast.ops.compat; assert sys.meta_path == before"
    subprocess.run([sys.executable, "-c", code], check=True)
