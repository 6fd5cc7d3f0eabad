"""vgen_fast: video GANs with fused, twice-differentiable ops. Importing this compiles nothing and needs no GPU."""

__version__ = "0.1.0"


def patch(library: str = "nvlabs", **switches: bool):
    """Replace a GAN library's ops by ours; see `vgen_fast.ops.compat.patch`."""
    from vgen_fast.ops import compat

    return compat.patch(library, **switches)
