"""`python -m unicscale` and `torchrun -m unicscale`."""

from unicscale.cli import main

main()
