"""``python -m tcertify`` is the command ``tcertify``."""

from tcertify.cli.main import main

main(prog_name="tcertify")
