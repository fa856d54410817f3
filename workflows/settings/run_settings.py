"""A whole run, read from a preset with overrides, and what is wrong with it."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from workflows.errors import SettingsError
from workflows.settings.data_settings import A_LIST, ONE_WORD, DataSettings, PreprocessingSettings
from workflows.settings.fit_settings import DiscriminativeFitSettings, FitSettings, HMMSettings
from workflows.settings.graph_settings import CountSettings, DrawSettings, MineSettings, TriageSettings
from workflows.settings.network_settings import DENSE, ExtractSettings, NetworkSettings, TrainingSettings
from workflows.settings.runtime_settings import RuntimeSettings
from workflows.settings.section import Section

_LARGEST = 2**63 - 1
"""What arrays and files can hold."""


class Settings(Section):
    """A whole run."""

    name: str = Field(description="shown in figures and in `network` columns")
    seed: int = 0
    data: DataSettings
    preprocessing: PreprocessingSettings = PreprocessingSettings()
    network: NetworkSettings
    training: TrainingSettings | None = None
    extract: ExtractSettings = ExtractSettings()
    fit: FitSettings
    discriminative: DiscriminativeFitSettings = DiscriminativeFitSettings()
    hmm: HMMSettings | None = None
    triage: TriageSettings = TriageSettings()
    count: CountSettings = CountSettings()
    mine: MineSettings = MineSettings()
    draw: DrawSettings = DrawSettings()
    runtime: RuntimeSettings = RuntimeSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        words, layers = self.fit.words, self.network.layers
        if "output" in layers:
            raise ValueError("network.layers: the output is always modelled, leave 'output' out")
        if len(words) not in (1, len(layers)) and not self.network.finds_layers:
            raise ValueError(f"fit.words has {len(words)} numbers for {len(layers)} layers: give one, or one per layer")
        if self.hmm is None and DENSE in layers:
            raise ValueError("network.layers = ['dense'] needs an [hmm] section; name the layers, or add the section")
        if self.hmm is not None and self.fit.var_floor == 0:
            raise ValueError("[hmm] needs fit.var_floor above 0: a unit that is always zero has no variance of its own")
        if self.hmm is not None and self.network.tap != "post":
            raise ValueError(
                "[hmm] reads dense layers behind their ReLU, where zeros are exact: set network.tap = 'post'"
            )
        if self.hmm is not None and (self.fit.scopes != ("joint",) or self.fit.loss != "generative"):
            raise ValueError("[hmm] has one chain for all classes: set fit.scopes = ['joint'], fit.loss = 'generative'")
        if self.hmm is not None and self.fit.word_slices > 1:
            raise ValueError(
                f"fit.word_slices is {self.fit.word_slices}, and the words of [hmm] are not sliced: set it to 1"
            )
        if self.fit.scopes == ("class",) and not self.mine.classes:
            raise ValueError(
                "fit.scopes = ['class'] makes a scope of every class of mine.classes, which is []: name classes in "
                "mine.classes, set it to ['all'], or add 'joint' to fit.scopes"
            )
        return self

    @model_validator(mode="after")
    def _shares_variances_where_it_can(self) -> Settings:
        if self.hmm is not None and self.fit.variance_of != "word":
            raise ValueError(
                f"fit.variance_of: must be 'word' with [hmm], got {self.fit.variance_of!r}, and the words of dense "
                "layers have variances of their own; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _decodes_where_it_can(self) -> Settings:
        if self.extract.decode == "device" and self.runtime.device == "cpu":
            raise ValueError(
                "extract.decode: must be 'cpu' with runtime.device = 'cpu', got 'device'; set it to 'cpu', or "
                "runtime.device to 'auto'"
            )
        return self

    @model_validator(mode="after")
    def _has_effects_where_it_asks_for_them(self) -> Settings:
        lacks = (
            (not self.network.has_outputs, "network.outputs = 'none'", "has no logit that a word could change"),
            (self.hmm is not None, "[hmm]", "chooses words by whole paths, of which columns are no mean and residual"),
        )
        for lacking, setting, reason in lacks:
            if lacking and self.mine.criterion != "likelihood":
                raise ValueError(
                    f"mine.criterion: must be 'likelihood' with {setting}, which {reason}, got "
                    f"{self.mine.criterion!r}; set it to 'likelihood'"
                )
        return self

    @model_validator(mode="after")
    def _trains_what_is_trained(self) -> Settings:
        if self.network.weights == "train" and self.training is None:
            raise ValueError("network.weights = 'train' needs a [training] section")
        if self.network.weights != "train" and self.training is not None and self.training.start:
            raise ValueError(
                f"training.start: must have network.weights = 'train', got {self.network.weights!r}, which is not "
                "trained; leave one of the two out"
            )
        if self.learns_pictures and self.network.has_outputs:
            raise ValueError(
                "network.outputs: must be 'none' with a training.objective of pictures, got 'classes', and an encoder "
                "gives codes; set it, or training.objective = 'classes'"
            )
        return self

    @model_validator(mode="after")
    def _needs_no_decision(self) -> Settings:
        """Without labels or outputs there is nothing to train for, to confuse, or to be wrong about."""
        lacks = (
            (self.data.labels == "none", "data.labels = 'none'", "labels", "give images in class folders"),
            (not self.network.has_outputs, "network.outputs = 'none'", "outputs", "name a network with a classifier"),
        )
        found = (
            ("fit.loss", "be 'generative'", self.fit.loss, self.fit.loss == "generative"),
            ("fit.scopes", "be ['joint']", list(self.fit.scopes), self.fit.scopes == ("joint",)),
            ("[hmm]", "be left out", "one", self.hmm is None),
            (
                "network.weights",
                "name weights, or be trained for pictures (training.objective),",
                self.network.weights,
                self.network.weights != "train" or self.learns_pictures,
            ),
        )
        for lacking, setting, what, remedy in lacks:
            for field, rule, came, is_met in found:
                if lacking and not is_met:
                    raise ValueError(
                        f"{field}: must {rule} with {setting}, got {came!r}, which needs {what}; change it, or {remedy}"
                    )
        return self

    @property
    def learns_pictures(self) -> bool:
        """Whether the run trains an autoencoder, whose encoder is the network."""
        return self.network.weights == "train" and self.training is not None and self.training.learns_pictures

    def allowing(self, packages: Sequence[str]) -> Settings:
        """The same with the code of more packages allowed to make the network of."""
        return self.model_copy(update={"network": self.network.allowing(packages)}) if packages else self

    def words_of_layers(self, n_layers: int) -> tuple[int, ...]:
        """K of every modelled layer, lowest first.

        Raises:
            SettingsError: the network has another number of layers than ``fit.words`` has numbers.
        """
        words = self.fit.words
        if len(words) not in (1, n_layers):
            raise SettingsError(f"fit.words has {len(words)} numbers for {n_layers} layers: give one, or one per layer")
        return words if len(words) > 1 else words * n_layers


def load_settings(preset: Path, overrides: Sequence[str] = ()) -> Settings:
    """Read a preset and apply ``section.field=value`` overrides (values in TOML, bare text allowed).

    Raises:
        SettingsError: the file is missing or no TOML, or a field is unknown, mistyped or contradictory.
    """
    try:
        raw = tomllib.loads(_text(preset))
    except FileNotFoundError:
        raise SettingsError(f"preset {str(preset)!r} does not exist; presets ship in infra/presets") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise SettingsError(f"preset {str(preset)!r} is not a TOML file: {error}") from None
    for override in overrides:
        _apply(raw, override)
    return parse_settings(raw)


def _text(preset: Path) -> str:
    content = preset.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SettingsError(f"preset {str(preset)!r} is UTF-16; save it as UTF-8")
    # Some editors begin UTF-8 with a byte order mark, which TOML does not know.
    return content.decode("utf-8-sig").replace("\r\n", "\n")


def parse_settings(raw: dict[str, Any]) -> Settings:
    """Check a nested dictionary of settings; see ``load_settings``."""
    _refuse_endless(raw, "")
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(problem) for problem in error.errors())) from None


def _refuse_endless(value: Any, field: str) -> None:
    """Also in what has no type of its own, such as ``network.arguments``."""
    if isinstance(value, dict):
        for name, inside in value.items():
            _refuse_endless(inside, f"{field}.{name}" if field else str(name))
    elif isinstance(value, list | tuple):
        for place, inside in enumerate(value):
            _refuse_endless(inside, f"{field}.{place}")
    elif isinstance(value, int | float) and not abs(value) <= _LARGEST:
        raise SettingsError(f"{field}: must be a finite number, {_LARGEST} at most; give another (came: {value})")


def _apply(raw: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise SettingsError(f"--set {override!r}: write section.field=value")
    *sections, field = path.strip().split(".")
    target = raw
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise SettingsError(f"--set {override!r}: {section!r} is not a section")
    target[field] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(problem: Any) -> str:
    location = [part for part in problem["loc"] if part not in (ONE_WORD, A_LIST)]
    field = ".".join(map(str, location)) or "settings"
    if problem["type"] == "extra_forbidden":
        return f"{field}: no such field{_nearest(location)}"
    if problem["type"] == "missing":
        return f"{field}: is required"
    came = "" if isinstance(problem["input"], dict) else f" (came: {problem['input']!r})"
    return f"{field}: {problem['msg'].removeprefix('Value error, ')}{came}"


def _nearest(location: Sequence[Any]) -> str:
    section: Any = Settings
    for part in (part for part in location[:-1] if isinstance(part, str)):
        section = _section_in(section.model_fields[part].annotation)
    known = list(section.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else f"; the fields are {', '.join(known)}"


def _section_in(annotation: Any) -> Any:
    """The section that a field is, or holds several of; None: it holds no section."""
    if hasattr(annotation, "model_fields"):
        return annotation
    inside = (_section_in(part) for part in (*getattr(annotation, "__args__", ()), *_origin(annotation)))
    return next((section for section in inside if section is not None), None)


def _origin(annotation: Any) -> tuple[Any, ...]:
    """What is annotated."""
    return (annotation.__origin__,) if hasattr(annotation, "__metadata__") else ()
