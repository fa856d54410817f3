"""Whose code a preset may run: a network's name is an import path, and a preset may come from anybody."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from workflows.errors import NetworkError
from workflows.networks.naming import nearest_names
from workflows.settings import NetworkSettings

LIBRARIES = ("torchvision.models", "timm.models", "workflows.networks.architectures")
"""Modules that hold networks and what builds them; only what they define themselves is taken, not what they import."""


OWN = ("workflows", "gmm_ops", "infra")
"""Whoever works on this project has it in the current folder, and what it can write and remove is no network."""


def imported_factory(network: NetworkSettings) -> Callable[..., Any]:
    """What builds a network named ``package.module:callable``; its module is imported only if its code is allowed.

    Raises:
        NetworkError: it is no such path, its code is not allowed, or there is no such module or callable.
    """
    refuse_foreign_code(network)
    name = network.name
    module_path, _, attribute = name.partition(":")
    module = _imported(name, module_path)
    found = getattr(module, attribute, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise NetworkError(
            f"network.name {name!r}: {module_path} has no callable {attribute!r}; {nearest_names(attribute, known)}"
        )
    library = next((one for one in LIBRARIES if _lies_in(module_path, one)), None)
    vouched = library is None or any(_lies_in(module_path, one) for one in network.allowed_code)
    if not vouched and not _lies_in(getattr(found, "__module__", ""), str(library)):
        raise _foreign(network, f"{attribute!r} is not of {library}")
    return found


def refuse_foreign_code(network: NetworkSettings) -> NetworkSettings:
    """The settings again, with the package of the network allowed wherever they are read.

    An actor may run in another folder than the command, so what is allowed for lying in the current folder must be
    decided in the driver.

    Raises:
        NetworkError: the callable is neither of torchvision, timm, this project or the current folder, nor of a package
            that the user has allowed; nothing of it was imported.
    """
    if network.name.startswith(("torchvision:", "timm:")):
        return network
    module_path, colon, attribute = network.name.partition(":")
    if not colon or not module_path or not attribute:
        raise NetworkError(
            f"network.name {network.name!r} must be torchvision:<model>, timm:<model> or an import path "
            "package.module:callable"
        )
    if any(_lies_in(module_path, one) for one in (*LIBRARIES, *network.allowed_code)):
        return network
    package = module_path.partition(".")[0]
    if package in OWN or not _in_current_folder(package):
        raise _foreign(network, "its code is foreign")
    return network.allowing((package,))


def _foreign(network: NetworkSettings, why: str) -> NetworkError:
    package = network.name.partition(":")[0].partition(".")[0]
    return NetworkError(
        f"network.name: must be of torchvision, timm, this project, the current folder or an allowed package, got "
        f"{network.name!r}, and {why}; if you trust it, give --allow-code {package}"
    )


def _lies_in(module_path: str, package: str) -> bool:
    return module_path == package or module_path.startswith(f"{package}.")


def _in_current_folder(package: str) -> bool:
    """Whether a package is found nowhere, or right in the current folder; an installed one of that name comes first.

    One that is found nowhere is refused by the import, with what to do.
    """
    look_into_current_folder()
    here = PathFinder.find_spec(package, [os.getcwd()])
    try:
        found = find_spec(package)
    except (ImportError, ValueError):  # of a broken installation
        return False
    if found is None:
        return True
    return here is not None and _places(found) <= _places(here) and package not in sys.builtin_module_names


def _places(spec: Any) -> set[str]:
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    return {os.path.realpath(place) for place in places}


def look_into_current_folder() -> None:
    """A console script does not look for modules there by itself."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    importlib.invalidate_caches()


def _imported(name: str, module_path: str) -> ModuleType:
    """A module that is installed, or lies in the current folder."""
    look_into_current_folder()
    try:
        return importlib.import_module(module_path)
    except Exception as error:  # foreign code may fail in any way
        raise NetworkError(
            f"network.name {name!r}: module {module_path!r} cannot be imported ({type(error).__name__}: {error}); "
            "start the command in its folder, put the folder on PYTHONPATH, or install it"
        ) from error
