"""What Stepward adds to MiniStack 1.5.33: `README.md` has the list.

A module with an `install` function is an addition. `install` replaces functions that are private to MiniStack 1.5.33,
which the module reads when it is imported: with a version that lacks one of them, the local cloud does not start.
"""

import importlib
import pkgutil


def additions():
    """The modules that have an `install` function, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return [module for module in modules if hasattr(module, "install")]
