"""How a run is looked at, while it goes on and afterwards. Everything here is made of events and of nothing else."""
