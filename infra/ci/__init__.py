"""What CI runs beyond the rooms' own commands. Each module is behind a target of the Makefile."""
