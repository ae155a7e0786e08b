"""A wheel puts one name into site-packages, and works from there."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("augment", "classifiers", "experiments")
PIP = (sys.executable, "-m", "pip")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing that an earlier build left gets in."""
    copy, out = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, copy)
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(out)]
    subprocess.run([*PIP, "wheel", *options, str(copy)], check=True, capture_output=True)
    (path,) = out.glob("neuromix-*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """Of an empty environment that has the wheel, and sees what neuromix needs where it is here."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    scheme = {"base": str(folder), "platbase": str(folder)}
    program = Path(sysconfig.get_path("scripts", "venv", scheme)) / "python"
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*PIP, "--python", str(program), "install", *options], check=True)
    # No .pth file in these folders, such as that of an editable install, is followed from here.
    there = [path for path in sys.path if path.endswith("-packages")]
    site = Path(sysconfig.get_path("purelib", "venv", scheme))
    (site / "others.pth").write_text("\n".join(there))
    return program


def run(python: Path, code: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [python, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_it_holds_every_file_of_the_packages_and_one_name(wheel):
    with zipfile.ZipFile(wheel) as content:
        names = {name for name in content.namelist() if ".dist-info/" not in name}
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*")]
    there = [path for path in files if path.is_file() and "__pycache__" not in path.parts]
    assert names == {f"neuromix/{path.relative_to(ROOT).as_posix()}" for path in there}


def test_the_first_lines_of_the_readme_work_elsewhere(python, tmp_path):
    block = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    imports = re.findall(r"^from neuromix.* import .*$", block.group(1), re.M)
    assert imports
    code = "\n".join([*imports, "print(__import__('neuromix.augment').augment.__file__)"])
    done = run(python, code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(python.parents[1])


@pytest.mark.parametrize("name", PACKAGES)
def test_no_other_name_is_taken(python, tmp_path, name):
    done = run(python, f"import {name}", tmp_path)
    assert "ModuleNotFoundError" in done.stderr


def test_the_command_answers(python, tmp_path):
    done = subprocess.run(
        [python.parent / "neuromix", "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "experiment" in done.stdout, done.stderr
