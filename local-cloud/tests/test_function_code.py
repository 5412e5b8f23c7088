import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from stepward_local_cloud import function_code


def functions_that_are_busy(directory, *arguments):
    command = [sys.executable, Path(__file__).with_name("unpack_race.py"), *arguments]
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(directory)}
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)


def test_ministack_lacks_functions_that_start_while_other_processes_start(tmp_path):
    assert functions_that_are_busy(tmp_path) > 0


def test_functions_start_while_other_processes_start(tmp_path):
    assert functions_that_are_busy(tmp_path, "with-addition") == 0


def archive_of(name, content, mode):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        file.writestr(entry, content)
    return zipfile.ZipFile(archive)


def test_unpacked_files_have_their_content_and_mode(tmp_path):
    function_code.unpack(archive_of("lib/tool", "content", 0o755), tmp_path)
    assert (tmp_path / "lib/tool").read_text() == "content"
    assert (tmp_path / "lib/tool").stat().st_mode & 0o777 == 0o755


def test_an_archive_that_cannot_be_unpacked_is_an_error(tmp_path):
    (tmp_path / "lib").write_text("a file in the place of a folder")
    with pytest.raises(zipfile.BadZipFile, match="lib"):
        function_code.unpack(archive_of("lib/tool", "content", 0o755), tmp_path)
