"""Sliders in JupyterLab: a notebook is run there, a slider is moved, the picture changes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
LIVE = sorted(path for path in NOTEBOOKS.glob("*.ipynb") if "widgets.explore(" in path.read_text())
MINUTES = 10  # for a notebook at its smallest size
SETTINGS = "@jupyterlab/notebook-extension/tracker.jupyterlab-settings"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Return the address and the folder of a JupyterLab that renders every output."""
    folder = tmp_path_factory.mktemp("lab")
    settings = folder / "settings" / SETTINGS
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"windowingMode": "none"}))
    environment = {**os.environ, "CODEC_PROFILE": "smoke", "OMP_NUM_THREADS": "1",
                   "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}  # fmt: skip
    for name in ("CODEC_STATIC", "PYTEST_CURRENT_TEST"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--port=0",
               "--IdentityProvider.token=", f"--notebook-dir={folder}"]  # fmt: skip
    log = folder / "log"
    with log.open("w") as stream:
        server = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
    try:
        yield _address(log, server), folder
    finally:
        server.terminate()
        server.wait(30)


def _address(log: Path, server: subprocess.Popen) -> str:
    """Wait for the server to say where it is."""
    for _ in range(600):
        found = re.search(r"http://(?:localhost|127\.0\.0\.1):\d+/", log.read_text())
        if found:
            return found.group()
        if server.poll() is not None:
            break
        try:
            server.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.mark.parametrize("path", LIVE, ids=lambda path: path.stem)
def test_a_slider_changes_the_picture(path: Path, lab: tuple[str, Path], browser: object) -> None:
    address, folder = lab
    shutil.copy(path, folder)
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(f"{address}lab/workspaces/{path.stem}/tree/{path.name}")
    page.set_default_timeout(120_000)
    page.locator(".jp-Notebook").wait_for()
    page.get_by_text("| Idle").wait_for()  # a run asked for before there is a kernel is lost
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    control = page.locator(".jp-OutputArea .widget-slider, .jp-OutputArea .widget-hslider").first
    control.wait_for(timeout=MINUTES * 60_000)
    page.get_by_text("| Idle").wait_for(timeout=MINUTES * 60_000)  # sliders wait for all cells
    box = page.locator(".widget-vbox").first
    picture = box.locator("img").first
    picture.wait_for(timeout=60_000)
    before, read = picture.get_attribute("src"), control.locator(".widget-readout").inner_text()
    handle = control.locator(".noUi-handle")
    handle.scroll_into_view_if_needed()
    handle.focus()
    at, last = (handle.get_attribute(f"aria-value{name}") for name in ("now", "max"))
    page.keyboard.press("ArrowLeft" if at == last else "ArrowRight")
    page.wait_for_function(
        "([box, before]) => { const img = box.querySelector('img');"
        " return img && img.src && img.src !== before; }",
        arg=[box.element_handle(), before],
        timeout=60_000,
    )
    assert control.locator(".widget-readout").inner_text() != read
    after = box.locator("img").first
    assert after.evaluate("img => img.complete && img.naturalWidth > 200")
    assert (
        not page.locator(".jp-OutputArea .jp-RenderedText[data-mime-type*=stderr]")
        .filter(has_text="Traceback")
        .count()
    )
    page.close()
