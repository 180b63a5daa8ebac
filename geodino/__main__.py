"""``python -m geodino`` is the command line."""

from geodino.cli import main

if __name__ == "__main__":
    main()
