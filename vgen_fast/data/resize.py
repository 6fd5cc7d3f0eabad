"""From a film's frame to the picture that is kept: one filter, and a shape that is named.

The filter is the bicubic of a = -1/2, widened by the factor of shrinking so that nothing aliases, its weights summing
to one and cut off at the border: the BICUBIC of Pillow, in float. Without torch, so that small processes can do it.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from .decode import Rejected


def cubic(x: np.ndarray) -> np.ndarray:
    """The cubic convolution kernel of a = -1/2 (Keys 1981)."""
    x = np.abs(x)
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0.0))


@lru_cache(maxsize=64)
def weights(old: int, new: int) -> np.ndarray:
    """float32 [new, old]: how much each old pixel counts in each new one."""
    scale = old / new
    wide = max(scale, 1.0)
    centre = (np.arange(new) + 0.5) * scale
    near = cubic((np.arange(old) + 0.5 - centre[:, None]) / wide)
    # Pillow and torch look at whole pixels within the rounded reach of the filter.
    first, last = np.floor(centre - 2 * wide + 0.5), np.floor(centre + 2 * wide + 0.5)
    near *= (np.arange(old) >= first[:, None]) & (np.arange(old) < last[:, None])
    return (near / near.sum(1, keepdims=True)).astype(np.float32)


def resize(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [height, width, 3]; rounded once."""
    old_height, old_width, channels = frame.shape
    if (old_height, old_width) == (height, width):
        return frame
    down = weights(old_height, height) @ frame.reshape(old_height, -1).astype(np.float32)
    rows = down.reshape(height, old_width, channels).swapaxes(1, 2).reshape(-1, old_width)  # one product, not many thin
    both = (rows @ weights(old_width, width).T).reshape(height, channels, width).swapaxes(1, 2)
    return (both + 0.5).clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Fit:
    """A picture's shape: pixels made square, then resized, then cut.

    `shorter` makes the shorter side that long; `stretch` gives both sides and keeps no proportions; with neither,
    pixels stay as they are. `crop` then keeps the middle, the odd pixel of a margin being on the right and below. All
    this of the `box`, if there is one: top, left, height and width of a part of the source.
    """

    shorter: int | None = None
    stretch: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    box: tuple[int, int, int, int] | None = None

    def __post_init__(self):
        if self.shorter and self.stretch:
            raise ValueError("a picture is resized to its shorter side or stretched, not both")

    def size(self, height: int, width: int, aspect: Fraction | int = 1) -> tuple[int, int]:
        """Height and width before cutting. `aspect` is the width of a pixel over its height."""
        if self.stretch:
            return self.stretch
        if self.box:
            height, width = self.box[2:]
        width = round(width * aspect)
        if self.shorter:
            shorter = min(height, width)
            return round(Fraction(height * self.shorter, shorter)), round(Fraction(width * self.shorter, shorter))
        return height, width

    def cut(self, height: int, width: int, aspect: Fraction | int = 1) -> tuple[int, int, int, int]:
        """Top, left, height and width of what is kept of the resized picture."""
        height, width = self.size(height, width, aspect)
        crop_height, crop_width = self.crop or (height, width)
        if crop_height > height or crop_width > width:
            raise Rejected("too small", f"{height}x{width} when resized, wanted {crop_height}x{crop_width}")
        return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width

    def window(self, height: int, width: int, aspect: Fraction | int = 1) -> tuple[int, int, int, int]:
        """Top, left, height and width of what is kept, in pixels of the source, rounded."""
        new_height, new_width = self.size(height, width, aspect)
        top, left, crop_height, crop_width = self.cut(height, width, aspect)
        first, second, height, width = self.box or (0, 0, height, width)
        down, across = Fraction(height, new_height), Fraction(width, new_width)
        return (
            first + round(top * down),
            second + round(left * across),
            round(crop_height * down),
            round(crop_width * across),
        )

    def __call__(self, frame: np.ndarray, aspect: Fraction | int = 1) -> np.ndarray:
        top, left, height, width = self.cut(*frame.shape[:2], aspect)
        size = self.size(*frame.shape[:2], aspect)
        if self.box:
            first, second, rows, columns = self.box
            frame = frame[first : first + rows, second : second + columns]
        resized = resize(frame, *size)
        return resized[top : top + height, left : left + width]


AS_IT_IS = Fit()
