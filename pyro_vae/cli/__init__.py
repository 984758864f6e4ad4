"""The command line: flags, config files, exit codes."""
