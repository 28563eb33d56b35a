"""The simulator of the embedded cities: a latent world, and everything that follows from it.

    styles.py        four cities: palettes, street pattern, vegetation, building forms
    seeds.py         random numbers that belong to a place
    world.py         the latent maps of a city, its water, rail, main roads and parks
    targets.py       latents -> the seven indicators
    streets.py       the street lattice: blocks, their land use, their edges
    canvas.py        drawing a picture and its mask in one pass
    satellite.py     a region from above
    street_view.py   a region from a street
    facts.py         object lists -> facts that can be said
    captioners.py    facts -> captions, with known errors
    roads.py         OSM-like roads and points of interest

Everything is synthetic. All lengths are metres in the city's own metric system: x east, y north,
origin in the south-west corner of the grid of regions.
"""
