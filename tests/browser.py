"""Pages in a headless Chromium, for tests of what a reader sees."""
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

_NAMES = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome'


@contextmanager
def launched():
    """A browser for several pages; skips the test, saying why, where there is none."""
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(f'no browser is on the path: none of {", ".join(_NAMES)}')
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=program)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser, path, width=1366, height=768):
    """A page, opened from its file in a window as large as a laptop's.

    Args:
        browser (Browser): As `launched` yields it.
        path (str | Path): An HTML file.
        width (int): Of the window, in pixels.
        height (int): Of the window, in pixels.

    Yields:
        Page: Playwright's page. `page.problems` lists, as texts, what went wrong up to now: errors and warnings on the
            console, exceptions, requests that failed, and requests for anything that is not in the file.
    """
    page = browser.new_page(viewport={'width': width, 'height': height})
    problems = page.problems = []
    page.on('console', lambda message: problems.append(message.text) if message.type in ('error', 'warning') else None)
    page.on('pageerror', lambda error: problems.append(str(error)))
    page.on('requestfailed', lambda request: problems.append(f'failed: {request.url[:200]}'))
    address = Path(path).resolve().as_uri()
    page.on('request', lambda request: None if request.url.startswith((address, 'data:', 'blob:'))
            else problems.append(f'request: {request.url[:200]}'))
    try:
        page.goto(address)
        yield page
    finally:
        page.close()


@contextmanager
def open_page(path, width=1366, height=768):
    """`opened` in a browser of its own."""
    with launched() as browser, opened(browser, path, width, height) as page:
        yield page


def milliseconds_to_zoom(page):
    """How long a page's viewer takes to show another magnification, on average of six."""
    return page.locator('.viewer').evaluate("""async viewer => {
      const start = performance.now();
      for (const key of '+-+-+-') {
        viewer.dispatchEvent(new KeyboardEvent('keydown', {key}));
        for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);
      }
      return (performance.now() - start) / 6;
    }""")
