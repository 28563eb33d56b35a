"""From a city's recipe to its dataset: plan what it costs, build it, see how far it is."""
