"""The experiment: config, physics, maps, solvers, backprop methods, training and measurement."""
