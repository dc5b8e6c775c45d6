"""One HTML file per suite that opens without a network and without a server."""

import base64
import gzip
import html
from pathlib import Path

from deepchecks.core.suite import SuiteResult
from plotly.offline import get_plotlyjs

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body {{ font-family: sans-serif; max-width: 1100px; margin: 1rem auto; padding: 0 1rem; }}
td, th {{ padding: 0.2rem 0.6rem; text-align: left; }}</style>
{scripts}</head>
<body>{body}</body></html>
"""

# plotly.js is 4.5 MB as it comes; compressed it is a third, and browsers can unpack it themselves. The
# figures ask for it with `require(["plotly"], draw)`, in the manner of require.js, and wait here.
_PLOTLY = """<script type="text/plain" id="plotly-gz">{packed}</script>
<script>
const waiting = [];
window.require = (names, draw) => waiting.push(draw);
(async () => {{
  const text = document.getElementById("plotly-gz").textContent;
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(plain).text();
  document.head.append(script);
  window.require = (names, draw) => draw(window.Plotly);
  waiting.forEach((draw) => draw(window.Plotly));
}})().catch((error) => {{
  const note = document.createElement("p");
  note.textContent = "The figures need a browser of 2023 or newer: " + error;
  document.body.prepend(note);
}});
</script>
"""


def write_report(result: SuiteResult, path: Path) -> None:
    """Write the suite's tables and figures to `path`."""
    body = result.html_serializer.serialize(
        output_id=result.name, include_requirejs=False, include_plotlyjs=False, connected=False
    )
    scripts = ""
    if "require([" in body:
        packed = base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
        scripts = _PLOTLY.format(packed=packed)
    path.write_text(_PAGE.format(title=html.escape(result.name), scripts=scripts, body=body), "utf-8")
