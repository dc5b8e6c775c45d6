"""The command line `greenroom`."""
