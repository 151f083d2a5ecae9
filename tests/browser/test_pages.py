"""The built course in a browser: pages open, pictures show, players play, nothing is cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

COURSE = Path(__file__).parents[2] / "build" / "course"
INDEX = COURSE / "index.html"
PAGES = [*COURSE.glob("index.html"), *sorted(COURSE.glob("*/*.html"))]
BROKEN_PICTURES = """async () => {
    const images = [...document.images];
    images.forEach(img => { img.loading = 'eager'; });  // also those that nobody has scrolled to
    await Promise.all(images.map(img => img.decode().catch(() => null)));
    return images.filter(img => !(img.naturalWidth > 20 && (img.alt || '').trim().length > 3))
        .map(img => (img.alt || img.src).slice(0, 80));
}"""
PLAYERS = """async () => Promise.all([...document.querySelectorAll('audio')].map(async audio => {
    audio.preload = 'auto';
    audio.load();
    for (let i = 0; i < 100 && audio.readyState < 2 && !audio.error; i++)
        await new Promise(done => setTimeout(done, 50));
    return [audio.error ? audio.error.message : '', audio.readyState, audio.duration];
}))"""
CUT_OFF = """() => [...document.querySelectorAll(
    '.jp-OutputArea-output, .jp-RenderedMarkdown, .jp-InputArea-editor')]
    .filter(box => box.scrollWidth > box.clientWidth + 1)
    .map(box => box.innerText.slice(0, 80))"""


@pytest.mark.skipif(not PAGES, reason="needs the built course: make course")
@pytest.mark.parametrize("page_file", PAGES, ids=lambda path: path.stem)
def test_pictures_and_players(page_file: Path, browser: object) -> None:
    page, problems = browser.new_page(viewport={"width": 1280, "height": 900}), []
    page.on("pageerror", lambda error: problems.append(f"script: {error}"))
    page.goto(page_file.as_uri(), wait_until="load")
    problems += [f"picture: {name}" for name in page.evaluate(BROKEN_PICTURES)]
    problems += [f"wider than the page: {text}" for text in page.evaluate(CUT_OFF)]
    for number, (error, ready, seconds) in enumerate(page.evaluate(PLAYERS)):
        if error or ready < 2 or not 0.05 < seconds < 120:
            problems.append(f"player {number}: {error or ready}, {seconds} s")
    page.close()
    assert not problems, "\n".join(problems)


@pytest.mark.skipif(not PAGES, reason="needs the built course: make course")
def test_the_index_leads_to_every_notebook(browser: object) -> None:
    page = browser.new_page()
    page.goto(INDEX.as_uri())
    links = page.evaluate("() => [...document.links].map(link => link.href.split('#')[0])")
    notebooks = {path.as_uri() for path in PAGES if path != INDEX}
    assert notebooks and notebooks <= set(links)
    page.close()
