"""Every random number of a run, as a function of (seed, purpose, clips seen): nothing has to be saved to continue."""

import hashlib

import torch


def derived(seed: int, *key: object) -> int:
    """A seed of 63 bits from the run's seed and a key of names and counts; the same on every machine."""
    text = "/".join(str(part) for part in (seed, *key))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *key: object) -> torch.Generator:
    return torch.Generator().manual_seed(derived(seed, *key))
