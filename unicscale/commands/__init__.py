"""The commands, a family a file: each reads its arguments, asks one room, and prints."""
