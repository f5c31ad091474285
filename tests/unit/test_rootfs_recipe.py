"""Recipes: those that come with nsbox, and files of the user's own."""

from pathlib import Path

import pytest

import nsbox
from nsbox import ConfigError
from nsbox._rootfs import load_recipe, recipe_names
from nsbox._rootfs.build import _filter
from nsbox._rootfs.record import debian_packages


def test_each_language_has_a_recipe_with_its_packages_and_one_has_all() -> None:
    """The packages are those that `nsbox.RUNTIMES` names."""
    assert set(recipe_names()) == {*nsbox.RUNTIMES, "all", "base"}
    for name, runtime in nsbox.RUNTIMES.items():
        packages = set(load_recipe(name).packages) | {"bash"}  # which is essential
        assert set(runtime.packages) <= packages
        assert set(runtime.packages) <= set(load_recipe("all").packages) | {"bash"}
        assert load_recipe(name).description


def test_a_recipe_of_one_s_own_goes_on_where_another_ends(tmp_path: Path) -> None:
    """Lists are longer, texts are others."""
    path = tmp_path / "mine.toml"
    path.write_text(
        'base = "python"\ndescription = "mine"\nsuite = "sid"\npackages = ["python3-numpy", "python3"]\nepoch = 5\n'
        'exclude = ["/opt/*"]\n[files]\n"/etc/motd" = "hello"\n'
    )
    recipe, base = load_recipe(str(path)), load_recipe("python")
    assert (recipe.name, recipe.description, recipe.suite, recipe.epoch) == ("mine", "mine", "sid", 5)
    assert recipe.packages == ("python3", "python3-numpy")
    assert recipe.exclude == (*base.exclude, "/opt/*")
    assert recipe.files == {"/etc/motd": "hello"}
    assert (recipe.variant, recipe.keep) == (base.variant, base.keep)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("packages = [", "Invalid|invalid|Unclosed|unexpected"),
        ("colour = 1", "'colour' is no field of a recipe; it has base, epoch"),
        ("packages = 'python3'", "packages must be texts"),
        ("packages = [1]", "packages must be texts"),
        ("epoch = true", "epoch must be an integer"),
        ("epoch = -1", "epoch: -1"),
        ("files = ['a']", "files must be a table of texts"),
        ("packages = ['-o=Dir::Etc=/x']", "packages"),
        ("packages = ['?essential']", "packages"),
        ("packages = ['/root/x.deb']", "packages"),
        ("packages = ['a,b']", "packages"),
        ("variant = 'custom'", "variant"),
        ("suite = '--help'", "suite"),
        ("components = ['a b']", "components"),
        ("exclude = ['etc/*']", "exclude"),
        ("exclude = ['/../*']", "exclude"),
        ("base = 'nothing'", "base"),
        ("[files]\n'/a/../b' = ''", "files"),
    ],
)
def test_a_recipe_that_is_none_is_refused_by_the_name_of_its_field(text: str, match: str, tmp_path: Path) -> None:
    """And nothing that mmdebstrap or apt would take for an option or a pattern gets through."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        load_recipe(str(path))


def test_a_recipe_that_is_not_there_is_told_with_those_that_are() -> None:
    """A name, and a file."""
    with pytest.raises(ConfigError, match="'cobol': must be one of all, base, bash, c, cpp"):
        load_recipe("cobol")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe("./cobol.toml")
    with pytest.raises(ConfigError, match="the name of the file"):
        load_recipe("/tmp/Not A Name.toml")


def test_what_tells_of_the_host_is_left_out_whatever_the_recipe_says() -> None:
    """Its mirrors, with passwords in them, its name servers; and what the recipe excludes, but for what it keeps."""
    leave_out = _filter(load_recipe("bash"))
    for path in (
        "/etc/apt/sources.list", "/etc/apt/sources.list.d/x.list", "/etc/apt/auth.conf.d/x", "/etc/resolv.conf",
        "/etc/apt/apt.conf.d/99mmdebstrap", "/dev/null", "/usr/share/doc/bash/README", "/etc/machine-id",
        "/var/log/apt/history.log", "/var/lib/apt/lists/x",
    ):  # fmt: skip
        assert leave_out(path), path
    for path in ("/etc/apt", "/usr/share/doc/bash/copyright", "/usr/share/doc", "/var/lib/dpkg/status", "/usr/bin/sh"):
        assert not leave_out(path), path


def test_packages_are_those_that_are_installed() -> None:
    """Of dpkg's own list, with paragraphs of several lines."""
    status = (
        "Package: a\nStatus: install ok installed\nVersion: 1:2-3\nDescription: x\n Package: no\n\n"
        "Package: b\nStatus: deinstall ok config-files\nVersion: 4\n\n"
        "Package: c\nVersion: 5\nStatus: hold ok installed\n"
    )
    assert debian_packages(status) == {"a": "1:2-3", "c": "5"}
