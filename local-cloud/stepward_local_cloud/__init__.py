"""Stepward's additions to MiniStack 1.5.33. `README.md` lists them.

A module with an `install` function is an addition. `install` replaces private functions of
MiniStack 1.5.33. The module reads the original functions when it is imported, so the local cloud
does not start with a version of MiniStack that lacks one of them.
"""

import importlib
import pkgutil


def additions():
    """Returns the modules that have an `install` function, sorted by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return [module for module in modules if hasattr(module, "install")]
