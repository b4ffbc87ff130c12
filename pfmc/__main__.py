"""``python -m pfmc`` is the command line."""

from pfmc.cli import main

if __name__ == "__main__":
    main()
