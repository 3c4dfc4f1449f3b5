"""The page in a real browser, offline; and what can be said about it without one."""

import html
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from report_sample import gpu_sample, sample

from trtasr.report.html import render

BROWSER = next((name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)), None)
browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH")
PHONE, DESKTOP = 390, 1280
OPEN_ALL = "document.querySelectorAll('details').forEach((item) => { item.open = true; });"


def open_page(folder, page, script=""):
    """Loads a page without network and runs a script after it. Returns the DOM as text and the console lines."""
    path = folder / "page.html"
    path.write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={DESKTOP},1000",
        "--virtual-time-budget=5000",
        "--enable-logging=stderr",
        "--v=0",
        "--dump-dom",
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def told(dom, key):
    """The value a script left in ``data-<key>`` of the document."""
    found = re.search(rf'<html[^>]* data-{key}="([^"]*)"', dom)
    assert found, "the script did not run to its end"
    return html.unescape(found[1])


def framed(page, width, script):
    """A page that holds `page` in a frame of so many pixels and runs `script` with its document as ``inner``."""
    run = f"const inner = frame.contentDocument; {script}"
    frame = f'<iframe id="frame" style="width:{width}px;border:0" srcdoc="{html.escape(page)}"></iframe>'
    load = f'<script>frame.addEventListener("load", () => {{ {run} }});</script>'
    return f"<!doctype html><html><body>{frame}{load}</body></html>"


@browser
def test_a_console_error_would_be_seen(tmp_path):
    _, console = open_page(tmp_path, render(sample()), "console.error('broken'); fetch('https://example.com/');")
    assert any("broken" in line for line in console)
    assert any("Content Security Policy" in line for line in console)


@browser
@pytest.mark.parametrize("data", [sample(), gpu_sample(20)], ids=["cpu", "gpu"])
def test_no_console_message_and_filter_counts_layers(tmp_path, data):
    script = OPEN_ALL + "document.documentElement.dataset.count = document.querySelector('.count').textContent;"
    dom, console = open_page(tmp_path, render(data), script)
    assert console == []
    layers = data.engines[0].layers
    assert told(dom, "count") == f"{sum(bool(layer.macs) for layer in layers)} of {len(layers)} layers"


SORT = """
const table = document.querySelector("#layers-t4");
const click = (name) => [...table.tHead.rows[0].cells].find((th) => th.textContent === name).firstChild.click();
const column = (index) => [...table.tBodies[0].rows].map((row) => row.cells[index].textContent).join();
const told = document.documentElement.dataset;
click("MACs %"); told.down = column(5);
click("MACs %"); told.up = column(5);
told.arrow = table.tHead.rows[0].cells[5].getAttribute("aria-sort");
click("layer"); told.names = column(0);
"""


@browser
def test_a_click_on_a_header_sorts_and_a_second_one_reverses(tmp_path):
    data = gpu_sample(15)
    dom, _ = open_page(tmp_path, render(data), SORT)
    macs = [float(cell.replace("-", "0")) for cell in told(dom, "down").split(",")]
    assert len(set(macs)) > 5
    assert macs == sorted(macs, reverse=True)
    assert [float(cell.replace("-", "0")) for cell in told(dom, "up").split(",")] == macs[::-1]
    assert told(dom, "arrow") == "ascending"
    names = told(dom, "names").split(",")
    assert sorted(names) == sorted(layer.name for layer in data.engines[0].layers)
    places = [names.index(f"/encoder/encoder.0/mconv.{i}/conv/Conv_myl0_{i}") for i in (1, 2, 10)]
    assert places == sorted(places), "numbers in names sort as numbers"


@browser
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_does_not_scroll_sideways(tmp_path, width):
    widths = "[frame.contentWindow.innerWidth, inner.documentElement.scrollWidth, inner.body.scrollWidth]"
    script = OPEN_ALL.replace("document", "inner") + f"document.documentElement.dataset.widths = {widths};"
    data = replace(gpu_sample(30), problems=("int8 t4: " + "a_very_long_name" * 20,))
    dom, console = open_page(tmp_path, framed(render(data), width, script))
    inside, *scrolled = map(int, told(dom, "widths").split(","))
    assert console == []
    assert inside == width
    assert max(scrolled) <= inside


WIDE = """
const cut = [...inner.querySelectorAll("table")].filter((table) => {
  const box = table.closest(".scroll, .layers, .panel").getBoundingClientRect();
  return !table.closest(".layers") && table.getBoundingClientRect().right > box.right + 1;
});
document.documentElement.dataset.cut = cut.map((table) => table.textContent.trim().slice(0, 30)).join();
const row = inner.querySelector("table.summary tbody tr:last-child");
document.documentElement.dataset.row = [...row.cells].map((cell) => {
  return `${frame.contentWindow.getComputedStyle(cell, "::before").content} ${cell.textContent}`;
}).join();
"""


@browser
@pytest.mark.parametrize("data", [sample(), gpu_sample(30)], ids=["cpu", "gpu"])
def test_on_a_phone_no_table_is_cut_and_every_figure_stands_beside_its_name(tmp_path, data):
    """Tables of layers aside, which scroll: as lists they would have thousands of lines."""
    script = OPEN_ALL.replace("document", "inner") + WIDE
    dom, _ = open_page(tmp_path, framed(render(data), PHONE, script))
    assert told(dom, "cut") == ""
    row = told(dom, "row")
    assert "int8 cpu" in row
    assert '"WER %" 13.28,"delta" +0.09 [-0.21, +0.38],"CER %" 6.64' in row


@pytest.mark.parametrize("data", [sample(), gpu_sample(3)], ids=["cpu", "gpu"])
def test_every_table_can_scroll_where_it_does_not_fit(data):
    before = [found[-120:] for found in render(data).split("<table")[:-1]]
    assert len(before) > 8
    assert all(re.search(r'<div class="(scroll|layers)">\s*$', found) for found in before)


def test_the_page_asks_for_nothing_from_elsewhere():
    page = render(gpu_sample(3))
    assert not re.search(r"""(src|href|action)\s*=|url\(|@import|https?://|["']//""", page)
    assert "default-src 'none'" in page


def test_it_is_a_plain_table_without_the_script():
    page = re.sub(r"<script>.*?</script>", "", render(gpu_sample(3)), flags=re.DOTALL)
    body = page[page.index('id="layers-t4"') :]
    rows = body[: body.index("</table>")].count('<tr data-kind="')
    assert rows == len(gpu_sample(3).engines[0].layers)
    assert "<tr hidden" not in page
    assert '<div class="tools" hidden>' in page


def test_four_engines_of_171_layers_stay_below_the_limit():
    data = gpu_sample(171)
    assert sum(len(engine.layers) for engine in data.engines) == 4 * 342
    assert len(render(data).encode()) < 1_500_000
