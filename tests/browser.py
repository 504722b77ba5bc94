"""A page in headless Chromium, for tests of what a visitor sees."""

import shutil
import subprocess
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def visit(page: Path, *flags: str) -> subprocess.CompletedProcess:
    """Open a page and let its scripts run; the output is the document that they leave.

    Args:
        page: the file; its folder gets the profile of the browser.
        flags: further flags of Chromium.
    """
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--virtual-time-budget=10000", f"--user-data-dir={page.parent / 'profile'}"]
    command += [*flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)
