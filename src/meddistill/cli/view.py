"""``meddistill view``: follow runs and look at packages in a browser on this machine."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meddistill.cli.common import Answer, Output
from meddistill.cli.text import files


def view(
    *subjects: Annotated[Path, Parameter(negative=())],
    port: int = 0,
    open_browser: Annotated[bool, Parameter(name="--open", negative=(), show_default=False)] = False,
    output: Output = Output(),
) -> Answer:
    """Follow runs and compare packages in a browser, stop runs and continue them.

    The page is for this machine alone. Ctrl-C ends the viewer; runs go on without it.

    Args:
        subjects: Folders of runs (NAME.run), packages (FILE.mdz), or folders of such [default: the working folder].
        port: Port to listen on [default: any that is free].
        open_browser: Open the page in the default browser.
    """
    from meddistill import api

    def announce(address: str) -> None:
        output.say(f"open {address}\nEnd with Ctrl-C; runs go on without the viewer.")
        if open_browser:
            import webbrowser

            webbrowser.open(address)

    return Answer(api.view(subjects, port=port, announce=announce).as_dict(), files.viewed)
