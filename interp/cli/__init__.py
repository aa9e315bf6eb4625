"""The ``interp`` command."""

from interp.cli.app import app as app
from interp.cli.app import main as main
