"""torchvision works beside a CPU-only torch, and nothing imports it past the guard."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import torch

import workflows
from workflows.networks import compiled_ops
from workflows.networks.compiled_ops import torchvision


def test_operators_are_declared_if_the_compiled_do_not_load() -> None:
    assert (compiled_ops._declared is None) == torchvision.extension._has_ops()


def test_models_run() -> None:
    with torch.inference_mode():
        assert torchvision.models.squeezenet1_1(weights=None).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_the_guard_comes_first_in_a_fresh_process() -> None:
    code = "from workflows.networks.compiled_ops import torchvision as tv; print(tv.transforms.Resize(8))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("Resize(size=8")


def test_the_compiler_is_imported_by_whoever_asks_it_something() -> None:
    code = """if True:
        import sys
        from workflows.networks import compiled_ops
        assert not any(name.startswith("torch._dynamo") for name in sys.modules), "by importing torchvision"
        with compiled_ops._compiler_on_call():
            from torch._dynamo.utils import counters  # as another version of torchvision might
        from torchvision.ops.roi_align import is_compile_supported
        import torch._dynamo.utils
        assert counters is torch._dynamo.utils.counters
        assert is_compile_supported("cpu") == torch._dynamo.utils.is_compile_supported("cpu")
        assert sys.modules["torch._dynamo"] is torch._dynamo and torch._dynamo.__file__
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr


def test_torchvision_is_imported_in_one_place_only() -> None:
    root = Path(workflows.__file__).parent
    importing = []
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(module.split(".")[0] == "torchvision" for module in modules):
                importing.append(path.relative_to(root).as_posix())
    assert set(importing) == {"networks/compiled_ops.py"}
