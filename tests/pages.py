"""HTML pages under test: taken apart, given names that nobody should trust, and opened in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

import edgevit.report

CSS = (Path(edgevit.report.__file__).parent / "report.css").read_text(encoding="utf-8")

HOSTILE = (
    "<script>alert(1)</script>",
    '"onerror="alert(1)',
    "'><img src=x onerror=alert(1)>",
    "</title></style><b>",
    "{{ 7 * 7 }}",
    "</bdi>&lt;--",
    "\u202egnp.exe",
)

LONG = "a" * 300 + " " + "word " * 60


class Page(HTMLParser):
    """What an HTML page holds, and every tag that does not fit."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.stack, self.faults, self.tags, self.attributes, self.pieces = [], [], [], [], []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self.stack]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if self.stack and self.stack[-1] == tag:
            self.stack.pop()
        else:
            self.faults.append(f"</{tag}> inside {self.stack[-3:]} at {self.getpos()}")

    def handle_data(self, data):
        if "style" not in self.stack:
            self.pieces.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.pieces).split())

    def values(self, name):
        return [value for _, key, value in self.attributes if key == name]


CHROMIUM = shutil.which("chromium")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def browse(page, folder, *flags):
    """Open a page in a fresh headless Chromium; what it printed, and what its console said."""
    result = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            # The browser would like to tell its makers that it runs.
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder / 'profile'}",
            *flags,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return result.stdout, console


def addresses_asked_for(net_log):
    """Every address outside the page that it, not the browser on its own account, asked for."""
    events = json.loads(net_log.read_text(encoding="utf-8"))["events"]
    started = [event["params"] for event in events if "initiator" in event.get("params", {})]
    return {params["url"] for params in started if params["initiator"] != "not an origin"}


ADDED = '<img src="http://127.0.0.1:9/x.png"><script>document.body.id = "changed"</script></body>'


# Of windows, in pixels.
WIDTHS = (360, 600, 800, 1000, 1400)


def widths_in_browser(text, folder):
    """How wide a page is in windows of `WIDTHS`: wider than one, and there is something to scroll to."""
    frame = f'<iframe style="width:{{}}px;border:0" srcdoc="{escape(text)}"></iframe>'
    frames = "".join(frame.replace("{}", str(width)) for width in WIDTHS)
    measure = (
        "onload = () => document.title = [...document.querySelectorAll('iframe')]"
        ".map(frame => frame.contentDocument.documentElement.scrollWidth).join(' ')"
    )
    outer = folder / "outer.html"
    outer.write_text(f"<!DOCTYPE html><title></title>{frames}<script>{measure}</script>", encoding="utf-8")
    dom, _ = browse(outer, folder, "--dump-dom")
    found = re.search(r"<title>([\d ]+)</title>", dom)
    assert found is not None
    return tuple(map(int, found[1].split()))
