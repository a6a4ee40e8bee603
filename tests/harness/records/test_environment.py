"""The commit of a record is that of this project, not of a repository that surrounds an installed copy of it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from harness.records import environment


def test_a_surrounding_repository_is_not_the_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "another project"], check=True)
    installed = tmp_path / "site-packages" / "environment.py"
    installed.parent.mkdir()
    shutil.copy(environment.__file__, installed)
    monkeypatch.setattr(environment, "__file__", str(installed))
    assert environment.git_state() == {"git_commit": "", "git_dirty": False}
    subprocess.run([*git, "add", "--all"], check=True)
    assert len(environment.git_state()["git_commit"]) == 40
