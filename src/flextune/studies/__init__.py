"""Studies: several trainings from one recipe, each an ordinary run, and how they compare."""
