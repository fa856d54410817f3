"""The small run on digits under names that break pages, and its site."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from workflows.figures.site_build import build_site
from workflows.run import open_run

NAMES = (
    '<img src=x onerror="document.hacked=1">',
    'it\'s "quoted" \\ back',
    "زرافة عربية",
    "斑马 しまうま",
    "🦓 zebra 👩‍🔬",
    "__proto__",
    "a/b?c=d#e%2F",
    "</script><script>document.hacked=1</script>",
    "a very long name of a class that goes on and on without an end " * 3 + "x" * 80,
    "constructor\u2028{{ 7*7 }} & &amp;",
)
WORD_NAME = "<b>stripes</b> 条纹"
LAYER = "layer2.0.add"


def renamed(source: Path, target: Path) -> Path:
    """A copy of the run whose classes have these names, and whose word 1 of a layer has one as well."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("activations", "figures"))
    plan = json.loads((target / "plan.json").read_text())
    plan["class_names"] = NAMES
    (target / "plan.json").write_text(json.dumps(plan))
    labels = f"scope,layer,word,name\njoint,{LAYER},1,{WORD_NAME}\n"
    (target / "labels.csv").write_text(labels, encoding="utf-8")
    return target


def site_of(run: Path, out: Path) -> Path:
    """Write the site of a run."""
    build_site(open_run(run), out)
    return out
