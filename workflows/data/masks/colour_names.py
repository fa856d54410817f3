"""Names of colours: a table from RGB to eleven names, as van de Weijer et al. (2009) learned one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16
from scipy.io import loadmat

from workflows.data.decoding import Pixels
from workflows.errors import DataError

COLOUR_NAMES = (
    "black", "blue", "brown", "grey", "green", "orange", "pink", "purple", "red", "white", "yellow",
)  # fmt: skip
"""In the order of the table's columns."""

_STEPS = 32
_CELLS = _STEPS**3


@dataclass(frozen=True, eq=False)
class ColourNames:
    """A table of 32 x 32 x 32 cells, red fastest; a pixel's cell is rgb // 8.

    Attributes:
        path: of the file.
        names: (32768,) number of the name in ``COLOUR_NAMES``.
    """

    path: Path
    names: UInt8[np.ndarray, " cells"]

    @classmethod
    def open(cls, path: Path) -> ColourNames:
        """Read ``w2c.mat`` (its array of 32768 rows), or a text file of such rows.

        A row ends in the eleven scores of the names, the largest of which counts.

        Raises:
            DataError: there is no such file, or no such table in it.
        """
        try:
            if path.suffix == ".mat":
                arrays = [value for value in loadmat(path).values() if isinstance(value, np.ndarray)]
                rows = next((value for value in arrays if value.ndim == 2 and len(value) == _CELLS), np.zeros((0, 0)))
            else:
                rows = np.loadtxt(path, ndmin=2)
        except FileNotFoundError:
            raise DataError(f"colours {str(path)!r}: there is no such file") from None
        except (OSError, ValueError, NotImplementedError) as error:
            raise DataError(f"colours {str(path)!r} cannot be read as a table of numbers: {error}") from None
        if len(rows) != _CELLS or rows.shape[1] < len(COLOUR_NAMES) or not np.isfinite(rows).all():
            raise DataError(
                f"colours {str(path)!r}: must have {_CELLS:,} rows of at least {len(COLOUR_NAMES)} numbers, got "
                f"{len(rows):,} of {rows.shape[1]}; give van de Weijer's w2c"
            )
        return cls(path, rows[:, -len(COLOUR_NAMES) :].argmax(axis=1).astype(np.uint8))

    def colours(self, pixels: Pixels) -> UInt16[np.ndarray, "H W"]:
        """The number of each pixel's name."""
        cell = pixels.astype(np.int64) // (256 // _STEPS)
        return self.names[cell[..., 0] + _STEPS * cell[..., 1] + _STEPS**2 * cell[..., 2]].astype(np.uint16)
