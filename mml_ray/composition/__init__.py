"""From the arguments of the command line to one checked configuration."""
