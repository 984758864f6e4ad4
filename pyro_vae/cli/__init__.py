"""The command line: one module a command, the flags that they share, and how they end."""
