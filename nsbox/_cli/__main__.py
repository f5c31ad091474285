"""`python -m nsbox._cli`: the command of an installation whose scripts are not in PATH."""

from nsbox._cli import main

main()
