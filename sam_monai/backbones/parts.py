"""Parts of other libraries' modules that are used here though their documentation does not promise them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter

from ..errors import InputError


def require(library: str, module: object, *names: str) -> None:
    """Find out when a network is built that an installed library has every part: attributes of its module, and of these
    by dots."""
    for name in names:
        try:
            attrgetter(name)(module)
        except AttributeError:
            try:
                found = version(library)
            except PackageNotFoundError:
                found = "of an unknown version"
            raise InputError(
                f"the installed {library} {found} is not one that this package works with: its {type(module).__name__} "
                f"has no {name}; install the version that pyproject.toml names"
            ) from None
