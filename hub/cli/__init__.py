"""The command line, `hub`."""
