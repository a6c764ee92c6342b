"""Runs a graph of commands, inline or on Ray. Knows no learning: a command is a name, parameters and resources."""
