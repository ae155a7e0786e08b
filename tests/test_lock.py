from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

LOCK = Path(__file__).parents[1] / "constraints.txt"


def closure(name, extras):
    """All that is installed with a package and its extras, and which of it another one pins."""
    pending, done, pinned = [(name, extras)], set(), set()
    while pending:
        package, extras = pending.pop()
        for needed in map(Requirement, requires(package) or ()):
            marker = needed.marker
            if marker and not any(marker.evaluate({"extra": each}) for each in (*extras, "")):
                continue
            item = canonicalize_name(needed.name), tuple(sorted(needed.extras))
            if any(each.operator == "==" for each in needed.specifier):
                pinned.add(item[0])
            if item not in done:
                done.add(item)
                pending.append(item)
    return {package for package, _ in done}, pinned


def test_the_lock_names_every_installed_package_in_its_version():
    lines = (line.split("==") for line in LOCK.read_text().split())
    lock = {canonicalize_name(name): exact for name, exact in lines}
    packages, pinned = closure("neuromix", ("dev",))
    assert {"torch", "ruff", "scikit-learn", "numpy"} <= packages
    # The public part, without the +cpu of a build of torch. What torch's other builds bring, the
    # libraries of a GPU, they pin themselves.
    installed = {p: Version(version(p)).public for p in packages if p in lock or p not in pinned}
    assert installed == {package: lock.get(package) for package in installed}
