"""How things are kept: objects, parts, Delta tables, HDF5 files and releases."""
