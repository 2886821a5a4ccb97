"""What is rendered depends on nothing but what is to be served."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

from tests.support.builders import EVERYTHING, artifacts, certificate, mixture, selection
from tests.support.host_guard import REPOSITORY


def rendered_elsewhere(**environment: str) -> str:
    script = (
        "import hashlib; from tests.system.test_rendering import all_texts; "
        "print(hashlib.sha256(all_texts()).hexdigest())"
    )
    command = [sys.executable, "-c", script]
    passed = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    return subprocess.run(command, env=passed, check=True, capture_output=True, text=True).stdout.strip()


def all_texts() -> bytes:
    many = [certificate(f"x-{at}", f"mail.x{at}.test", f"*.x{at // 2}.test", age=at % 3) for at in range(50)]
    return b"".join(artifacts(selection(*mixture(), *many, patterns=EVERYTHING)).values())


def test_neither_hash_seed_nor_locale_nor_time_zone_changes_a_byte() -> None:
    here = hashlib.sha256(all_texts()).hexdigest()
    assert rendered_elsewhere(PYTHONHASHSEED="1", LC_ALL="C", TZ="UTC") == here
    assert rendered_elsewhere(PYTHONHASHSEED="2", LC_ALL="tr_TR.UTF-8", TZ="Asia/Kathmandu") == here
