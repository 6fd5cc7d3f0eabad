"""`patch()`: another library's ops replaced by ours wherever a module holds them, and put back by `undo()`."""

import functools
import importlib.abc
import inspect
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType

from . import nvlabs, rosinality

FIR = (nvlabs.upfirdn2d, nvlabs.setup_filter, nvlabs.filter2d, nvlabs.upsample2d, nvlabs.downsample2d)
MODULATED = ("training.networks_stylegan2", "training.networks", "torch_utils.ops.modulated_conv2d")
LIBRARIES: dict[str, dict[str, tuple[tuple[str, Callable], ...]]] = {  # library: switch: (module, our function)
    "nvlabs": {
        "bias_act": (("torch_utils.ops.bias_act", nvlabs.bias_act),),
        "upfirdn2d": tuple(("torch_utils.ops.upfirdn2d", function) for function in FIR),
        "modulated_conv2d": tuple((module, nvlabs.modulated_conv2d) for module in MODULATED),
    },
    "rosinality": {
        "fused_leaky_relu": tuple((module, rosinality.fused_leaky_relu) for module in ("op.fused_act", "op")),
        "upfirdn2d": tuple((module, rosinality.upfirdn2d) for module in ("op.upfirdn2d", "op")),
    },
}


def patch(library: str = "nvlabs", **switches: bool) -> "Patch":
    """Replace a GAN library's ops by ours, each unless its switch is False, until `undo()` or the end of `with`.

    Every module that holds one of the library's functions gets ours, however it imported it, and so do modules that
    are imported while the patch stands; `replaced` lists them as "module.name". A function whose parameters differ
    from the ones known here is left alone and listed in `skipped`. At least one of the library's modules must be
    imported already.
    """
    if library not in LIBRARIES:
        raise ValueError(f"patch: library must be one of {', '.join(LIBRARIES)}, got {library!r}")
    known = LIBRARIES[library]
    for name, value in switches.items():
        if name not in known:
            raise ValueError(f"patch: switches of {library} are {', '.join(known)}, got {name!r}")
        if not isinstance(value, bool):
            raise ValueError(f"patch: {name} must be True or False, got {value!r}")
    targets: dict[str, list[Callable]] = {}
    for name, places in known.items():
        for module, function in places if switches.get(name, True) else ():
            targets.setdefault(module, []).append(function)
    handle = Patch(library, targets)
    for name in targets:
        handle._apply(name)
    if not handle.replaced:
        why = (
            "; ".join(handle.skipped)
            or f"none of the modules {', '.join(targets) or '(all switches are off)'} is imported"
        )
        raise ValueError(f"patch: nothing of {library} to replace: {why}")
    if not _active:
        sys.meta_path.insert(0, _FINDER)
    _active.append(handle)
    return handle


class Patch:
    """What `patch()` did: `replaced` and `skipped` as lists of strings, and `undo()`."""

    def __init__(self, library: str, targets: dict[str, list[Callable]]) -> None:
        self.library = library
        self.replaced: list[str] = []
        self.skipped: list[str] = []
        self._targets = targets
        self._swaps: list[_Swap] = []

    def undo(self) -> None:
        """Put the library's own objects back. Patches may be undone in any order, and twice.

        An op stays ours while another patch still wants it. A name that somebody else has replaced since is left alone,
        and RuntimeError names it: once it holds our function again, `undo()` can be called again.
        """
        if self in _active:
            _active.remove(self)
            if not _active:
                sys.meta_path.remove(_FINDER)
        ours = {id(function) for swap in _swaps for function in (swap.original, swap.replacement)}
        kept, taken = [], []
        for swap in self._swaps:
            if swap.claims > 1:
                swap.claims -= 1
                continue
            names = swap.restore(ours)
            if names:
                kept.append(swap)
                taken += names
            else:
                _swaps.remove(swap)
        self._swaps = kept
        if taken:
            raise RuntimeError(
                f"patch: {', '.join(taken)} was replaced again since; undo that first, then call undo() again"
            )

    def __enter__(self) -> "Patch":
        return self

    def __exit__(self, *exception) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"<Patch of {self.library}: {', '.join(self.replaced)}>"

    def _apply(self, name: str) -> None:
        module = sys.modules.get(name)
        for function in self._targets.get(name, ()) if isinstance(module, ModuleType) else ():
            current = vars(module).get(function.__name__)
            if not callable(current) or isinstance(current, type):  # `op.upfirdn2d` may be the submodule
                continue
            swap = next((swap for swap in _swaps if current is swap.original or current is swap.replacement), None)
            if swap is None:
                if parameters := _other_parameters(current, function):
                    self.skipped.append(f"{name}.{function.__name__} has other parameters ({', '.join(parameters)})")
                    continue
                swap = _Swap(current, function)
                _swaps.append(swap)
            if swap not in self._swaps:
                self._swaps.append(swap)
                swap.claims += 1
            swap.install()
            names = (f"{place.__name__}.{attribute}" for place, attribute in swap.places)
            self.replaced += [name for name in names if name not in self.replaced]


class _Swap:
    """One foreign function, our replacement for it, and every module attribute where one stands for the other.

    The replacement is a copy of our function's object: putting back must not touch modules that import ours by name.
    """

    def __init__(self, original: Callable, function: FunctionType) -> None:
        twin = FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
        )
        twin.__kwdefaults__ = function.__kwdefaults__
        self.original = original
        self.replacement = functools.update_wrapper(twin, function)
        self.replacement.__module__ = getattr(original, "__module__", function.__module__)  # pickles by that name
        self.places: list[tuple[ModuleType, str]] = []
        self.claims = 0

    def install(self) -> None:
        for module, name in _holders(self.original, []):
            setattr(module, name, self.replacement)
        self.places = _holders(self.replacement, self.places)

    def restore(self, ours: set[int]) -> list[str]:
        """Put the original back; the names of places that hold neither ours nor theirs."""
        for module, name in _holders(self.replacement, self.places):
            setattr(module, name, self.original)
        held = ((module, name, vars(module)) for module, name in self.places)
        return [
            f"{module.__name__}.{name}"
            for module, name, values in held
            if name in values and id(values[name]) not in ours
        ]


_swaps: list[_Swap] = []
_active: list[Patch] = []


def _holders(function: Callable, places: list[tuple[ModuleType, str]]) -> list[tuple[ModuleType, str]]:
    """Every attribute of an imported module, and every one of `places`, that is this very function."""
    modules = {id(m): m for m in (*sys.modules.values(), *(m for m, _ in places)) if isinstance(m, ModuleType)}
    return [(m, name) for m in modules.values() for name, value in list(vars(m).items()) if value is function]


def _other_parameters(current: Callable, function: Callable) -> list[str] | None:
    """The parameters of `current` where they are known and not those of `function`."""
    try:
        parameters = inspect.signature(current).parameters
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters.values()):  # a decorator hides them
        return None
    return list(parameters) if list(parameters) != list(inspect.signature(function).parameters) else None


class _PatchingLoader(importlib.abc.Loader):
    """Runs the module's own loader, steps out of its way, then applies the active patches to the module."""

    def __init__(self, loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str):
        return getattr(self.loader, name)

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        for handle in _active:
            handle._apply(module.__name__)


class _PatchingFinder(importlib.abc.MetaPathFinder):
    """Stands in sys.meta_path while a patch does, for the modules it names alone."""

    def find_spec(self, fullname, path=None, target=None):
        if not any(fullname in handle._targets for handle in _active):
            return None
        for finder in sys.meta_path:
            spec = (
                finder.find_spec(fullname, path, target)
                if finder is not self and hasattr(finder, "find_spec")
                else None
            )
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _PatchingLoader(spec.loader)
                return spec
        return None


_FINDER = _PatchingFinder()
