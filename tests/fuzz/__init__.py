"""Mutated inputs against the command line: `make fuzz`, and in short in `make test`."""
