"""One class per task of the paper: what it reads, and the scores that it gives."""
