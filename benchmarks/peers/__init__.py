"""Ours and two others side by side; nothing of the others is part of this project."""
