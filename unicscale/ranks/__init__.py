"""The processes of one run: how they find, hear, watch and stop one another."""
