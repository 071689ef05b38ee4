"""The run folder: who holds it, what every launch did, what was measured, and how a run is doing now.

folder: whose it is -> lock: one owner -> launches: run.json, who ran when and how it ended
metrics: one line per logged step, the truth -> mirrors: console, wandb, TensorBoard    phases: where time goes
from outside: status and follow, by the queue and by what is in the folder
"""
