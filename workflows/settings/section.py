"""What every table of a preset has in common."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """One table of a preset: frozen, without fields of other names, its numbers finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _as_texts(given: Any) -> Any:
    listed = [given] if isinstance(given, str | int) else given
    if not isinstance(listed, list | tuple):
        return given
    return [str(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in listed]


Names = Annotated[tuple[str, ...], BeforeValidator(_as_texts)]
"""Names or ids; a number is its text, one alone a list of one."""

UserPath = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path, ``~`` being the home of who starts the command."""

UserPaths = Annotated[tuple[UserPath, ...], BeforeValidator(_as_texts)]
"""Several; one alone is a list of one."""
