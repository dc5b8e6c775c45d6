"""`python -m registry` is `greenroom`, for programs that know only which Python to run."""

from registry.cli.main import main

if __name__ == "__main__":
    main()
