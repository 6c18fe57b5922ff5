"""Lengths of pixels: the units that files give them in, and which of them to believe."""

MICROMETRES = {'m': 1e6, 'cm': 1e4, 'mm': 1e3, 'nm': 1e-3, 'pm': 1e-6, 'Å': 1e-4, 'inch': 25400.0, 'in': 25400.0,
               **dict.fromkeys(('um', 'µm', 'μm', 'micron', 'microns', 'micrometer', 'micrometre'), 1.0),
               # As OME-Zarr spells them.
               'meter': 1e6, 'centimeter': 1e4, 'millimeter': 1e3, 'nanometer': 1e-3, 'picometer': 1e-6,
               'angstrom': 1e-4}


def plausible(micrometres):
    """The length of a pixel, or None where no light microscope has such pixels: outside 0.001 to 10 micrometres."""
    return micrometres if 0.001 <= micrometres <= 10 else None
