"""What Hydra finds under -m: a sweeper for unions of grids, and launchers that work run folders off."""
