"""`python -m fedlens`: the `fedlens` command, where it is not on the path."""

from fedlens.cli.main import main

if __name__ == "__main__":
    main()
