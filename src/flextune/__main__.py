"""`python -m flextune`, for launchers that want a module."""

from flextune.cli import main

if __name__ == "__main__":
    main()
