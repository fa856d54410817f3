"""Runs the method once with every annotated shape of `gmm_ops` checked; started by test_shapes in its own process.

Modules with compiled functions are left out: a check around such a function would hide it from the others. So are
those that speak of `Self`, which the checker cannot see from a function, and the room `hmm`, whose lists of layers
share one letter for sizes that differ.
"""

from __future__ import annotations

import doctest
from pathlib import Path

from jaxtyping import install_import_hook

ROOT = Path(__file__).parents[2]


def checked_modules() -> list[str]:
    """Names of the modules whose annotations are checked."""
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "gmm_ops").rglob("*.py")}
    plain = [path for path, text in texts.items() if "numba" not in text and "Self" not in text]
    rooms = [path.relative_to(ROOT) for path in plain if path.stem != "__init__" and path.parent.name != "hmm"]
    return [".".join(path.with_suffix("").parts) for path in rooms]


def main() -> None:
    """The example of the front door, and the fits and readings that it does not show."""
    modules = checked_modules()
    with install_import_hook(modules, "beartype.beartype"):
        import torch

        import gmm_ops

        failed, tried = doctest.testmod(gmm_ops)
        noise = torch.Generator().manual_seed(0)
        images = torch.rand(60, 9, 4, generator=noise)
        labels = (images.mean(dim=(1, 2)) > 0.5).long()
        mixture = gmm_ops.fit_batch(images.flatten(0, 1), n_words=4, seed=0).mixture
        gmm_ops.fit_discriminative(images, labels, mixture, 2, 0, gmm_ops.DiscriminativeSettings(epochs=2))
        mixture.bic(mixture.sample(50, seed=1)[0])
    print(len(modules), tried, failed)


if __name__ == "__main__":
    main()
