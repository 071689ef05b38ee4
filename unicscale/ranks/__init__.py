"""The processes of one run: how they find, hear, watch and stop one another.

rendezvous: who and where, of Slurm's or torchrun's variables -> world: process group, device, agreement
stop: signals, time limits, requests -> a flag, which all ranks compare at the end of a step
watchdog: whoever hangs is named -> failures: what a crash means, in words -> exits
voice: rank 0 speaks on the terminal, every rank writes to its own file
"""
