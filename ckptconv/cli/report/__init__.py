"""``diff --html``: one page that a browser opens without a network, made of a template and of plots.

Nothing that comes from a file is trusted in it: names are spelled printable, jinja2 escapes every value, no value gets
into the script, and the page's own policy lets it load nothing and run that one script alone. The same difference makes
the same bytes: no time, no random number, and the plots ignore whatever a user's matplotlib is set to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import MissingExtraError

if TYPE_CHECKING:
    from ckptconv.api.diff import Difference
    from ckptconv.io.target import Target

NEEDED = ("jinja2", "matplotlib")


def require() -> None:
    """Raise MissingExtraError where a package of the extra `report` is absent. Imports none of them."""
    from importlib.util import find_spec

    for package in NEEDED:
        if find_spec(package) is None:
            raise MissingExtraError(package, "report")


def write(result: Difference, target: Target) -> None:
    """Write the page; it appears whole or not at all. Takes a second or two, most of it matplotlib's."""
    target.write_whole(html(result).encode())


def html(result: Difference) -> str:
    """The page. Its size is bounded, however much differs: what is left out is counted."""
    require()
    from base64 import b64encode
    from hashlib import sha256
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from ckptconv.cli.report.plots import plots
    from ckptconv.cli.report.view import view

    here = files("ckptconv.cli.report")
    page, style, script = (here.joinpath(name).read_text("utf-8") for name in ("page.html", "page.css", "page.js"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(page).render(
        view=view(result),
        plots=plots(result),
        style=Markup(style),  # noqa: S704  # both are files of this package
        script=Markup(script),  # noqa: S704
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
    )
