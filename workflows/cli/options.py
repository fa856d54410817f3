"""What several commands are told, and how all of them print."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from workflows.errors import RunError
from workflows.pipeline import STAGES

if TYPE_CHECKING:
    from workflows.asking.study import Asked

Preset = Annotated[
    str, typer.Argument(help="A TOML file, or the name of a shipped preset (digits, cifar10_resnet20, ...).")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override a field: [bold]section.field=value[/bold]; may be repeated.", metavar="FIELD=VALUE"
    ),
]
Out = Annotated[Path | None, typer.Option(help="Run folder; default runs/<name of the preset>.")]
Until = Annotated[str | None, typer.Option(help=f"Last stage: {', '.join(STAGES)}.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to join (auto, host:port); default: a local Ray.")]
AcceptVersions = Annotated[
    bool,
    typer.Option("--accept-versions", help="Go on with a run begun with other code or libraries; noted in it."),
]
AllowCode = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-code",
        metavar="PACKAGE",
        help="Let the network be code of this package, which runs with your rights; may be repeated. Not remembered. "
        "Code of torchvision, timm, this project and the current folder needs no such word.",
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead, for programs.")]
Images = Annotated[
    int | None, typer.Option(min=1, help="At most so many images, spread evenly over the classes; default: all.")
]
Anew = Annotated[bool, typer.Option("--anew", help="Remove what this study has written, nothing else, and ask again.")]
Classes = Annotated[
    list[str] | None,
    typer.Option("--class", metavar="NAME", help="Name or id of a class, or all; may be repeated."),
]


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys instead of showing it, what turns the direction of a line, and bytes that are no text."""


def visible(text: str) -> str:
    r"""Text with ``\x1b`` for an escape character and the like: names come from files, and those from anybody."""
    return _UNPRINTABLE.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode(), text)


class PlainConsole(Console):
    """A console that sends no control characters but its own."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Also called for what lies in tables, so that columns have the width of what is shown."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def console(stderr: bool = False) -> Console:
    """Without emoji codes: a class called ``:cat:`` is shown by its name."""
    return PlainConsole(stderr=stderr, emoji=False)


def print_json(content: Any) -> None:
    """One JSON value on standard output, as it is: no colours, no folding."""
    shown = json.dumps(content, indent=1, ensure_ascii=False)
    # JSON escapes only what stands below the space.
    typer.echo(_UNPRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", shown))


def asking(
    folder: Path,
    as_json: bool,
    images: int | None = None,
    anew: bool = False,
    address: str | None = None,
    allow_code: Sequence[str] | None = None,
) -> Asked:
    """How a study is asked; for an answer in JSON, bars and words go to the standard error stream."""
    from workflows.asking.study import Asked

    return Asked(folder, console(stderr=as_json), images, anew, address, tuple(allow_code or ()))


def default_out(name: str) -> Path:
    """``runs/<name>``, whatever characters a name has."""
    from workflows.storage.names import slug

    return Path("runs") / slug(name)


def find_preset(name: str) -> Path:
    """A TOML file as given, or the shipped preset of that name."""
    import infra

    shipped = Path(infra.__file__).parent / "presets"
    given = Path(name)
    known = sorted(path.stem for path in shipped.glob("*.toml"))
    if name not in known and (given.is_file() or given.suffix == ".toml"):
        return given
    if name not in known:
        raise RunError(f"preset {name!r} is neither a file nor a shipped preset; shipped are {', '.join(known)}")
    return shipped / f"{name}.toml"
