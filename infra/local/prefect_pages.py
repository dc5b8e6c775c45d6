"""The way of a person's browser into Prefect's pages, which ask for the login of its API.

Prefect's pages keep the login in the browser's local storage, where only a page of the same origin can put
it. So Prefect serves one more page, which takes the login from its address' fragment; a browser sends no
fragment to a server. A file in the home, for its owner alone, leads there: the link to it holds no secret.
"""

import base64
from pathlib import Path

from infra.local.settings import LocalSettings
from registry.files import write_atomically
from registry.settings import home

_PAGE = "greenroom-login.html"
# Prefect 3.8's name for what its pages send after `Authorization: Basic`.
_STORED_AS = "prefect-password"
_LOGIN_PAGE = f"""<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<title>Prefect of the local stack</title>
<body>
<script>
const login = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
fetch("/api/admin/version", {{headers: {{Authorization: `Basic ${{login}}`}}}}).then((answer) => {{
  if (!answer.ok) throw answer.status;
  localStorage.setItem("{_STORED_AS}", login);
  location.replace("/");
}}).catch(() => {{
  document.body.textContent =
    "Prefect refuses this login. Run `greenroom status`, and open the link that it prints.";
}});
</script>
"""
_LINK_PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<title>Prefect of the local stack</title>
<meta http-equiv="refresh" content="0; url={url}">
"""


def folder() -> Path:
    """Return the folder of Prefect's pages: its server copies them there when it starts."""
    return home() / "prefect" / "ui"


def write(settings: LocalSettings) -> None:
    """Write the page that stores the login, and the file that leads there.

    Prefect must be up: when it starts it may clear its folder.
    """
    # Prefect serves this bundle at the root, whichever one a browser prefers.
    write_atomically(folder() / "v1" / _PAGE, _LOGIN_PAGE.encode())
    login = base64.b64encode(settings.prefect_login.encode()).decode()
    url = f"{settings.prefect_url}/{_PAGE}#{login}"
    write_atomically(_link_file(), _LINK_PAGE.format(url=url).encode(), 0o600)


def link() -> str | None:
    """Return the address of the file that logs a browser of this machine in; None before Prefect was up."""
    return _link_file().as_uri() if _link_file().exists() else None


def _link_file() -> Path:
    return home() / "prefect-login.html"
